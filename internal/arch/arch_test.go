// Package arch_test checks the shape of the repository: which package may
// import which, and that the commands that the documents name exist.
package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "netstackd/"
	gvisor = "gvisor.dev/gvisor/"
	sys    = "golang.org/x/sys/"
)

// A rule is what a package may import beside the standard library: packages
// of this module by their path, others by a prefix.
type rule struct {
	ours   []string
	others []string
}

// rules is the import graph. A package that is not listed may import neither
// gVisor nor netlink, and nothing of ours imports it but cmd and daemon.
var rules = map[string]rule{
	"queue":             {},
	"tun":               {others: []string{sys}},
	"tun/tuntest":       {ours: []string{"tun"}, others: []string{sys}},
	"link":              {ours: []string{"queue"}, others: []string{gvisor}},
	"socks":             {ours: []string{"internal/flow", "internal/worker"}, others: []string{"golang.org/x/crypto/"}},
	"internal/flow":     {},
	"internal/worker":   {},
	"internal/epoll":    {others: []string{sys}},
	"internal/relay":    {ours: []string{"internal/flow", "internal/epoll"}, others: []string{sys}},
	"internal/hostnet":  {ours: []string{"internal/flow"}, others: []string{sys}},
	"internal/netstack": {ours: []string{"link", "internal/epoll", "internal/flow", "internal/worker"}, others: []string{sys, gvisor}},
	"internal/forward":  {ours: []string{"internal/netstack", "link", "internal/flow", "internal/epoll"}, others: []string{sys, gvisor}},
	"internal/netcfg":   {others: []string{sys, "github.com/vishvananda/netlink"}},
	"internal/dns":      {ours: []string{"internal/flow"}, others: []string{sys, "golang.org/x/net/dns/dnsmessage"}},
	"internal/sandbox":  {ours: []string{"internal/flow", "internal/timerslack"}, others: []string{sys}},
	"cmd/netstackd":     {ours: []string{"internal/daemon", "internal/sandbox", "internal/netcfg", "internal/timerslack", "bench"}, others: []string{"github.com/spf13/pflag", sys}},
}

// onlyIn are dependencies that belong to few packages.
var onlyIn = map[string][]string{
	gvisor:                           {"link", "internal/netstack", "internal/forward", "bench", "bench/..."},
	"github.com/vishvananda/netlink": {"internal/netcfg"},
	"github.com/spf13/pflag":         {"cmd/netstackd", "bench/..."},
	"go.yaml.in/yaml/":               {"internal/daemon"},
}

// blind are packages that must not reach gVisor by any path.
var blind = []string{"queue", "tun", "socks", "internal/flow", "internal/epoll", "internal/relay", "internal/hostnet", "internal/netcfg", "internal/dns"}

type listed struct {
	ImportPath    string
	Imports, Deps []string
}

func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]listed{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, module)] = p
	}
}

const root = "../.."

func TestImportGraph(t *testing.T) {
	for name, p := range packages(t) {
		r, listed := rules[name]
		for _, imp := range p.Imports {
			own, internal := strings.CutPrefix(imp, module)
			switch {
			case internal && listed && !slices.Contains(r.ours, own):
				t.Errorf("%s imports %s", name, own)
			case !internal && listed && external(imp) && !hasPrefix(imp, r.others):
				t.Errorf("%s imports %s", name, imp)
			}
			for prefix, allowed := range onlyIn {
				if strings.HasPrefix(imp, prefix) && !matches(name, allowed) {
					t.Errorf("%s imports %s, which belongs to %v", name, imp, allowed)
				}
			}
		}
		if slices.Contains(blind, name) && hasPrefixOf(p.Deps, gvisor) {
			t.Errorf("%s reaches gVisor", name)
		}
	}
}

// external reports whether a path is outside the standard library.
func external(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return strings.Contains(first, ".")
}

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

func hasPrefixOf(all []string, prefix string) bool {
	return slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		dir, tree := strings.CutSuffix(p, "/...")
		return name == p || tree && strings.HasPrefix(name, dir+"/")
	})
}

// Nobody but tests imports the test harness, and no package has an init.
func TestNoInitNoHarness(t *testing.T) {
	for name, p := range packages(t) {
		if slices.Contains(p.Imports, module+"internal/testnet") {
			t.Errorf("%s imports the test harness", name)
		}
	}
	walk(t, func(path string, text []byte) {
		if strings.HasSuffix(path, ".go") && bytes.Contains(text, []byte("\nfunc "+"init()")) {
			t.Errorf("%s has an init function", path)
		}
	})
}

func walk(t *testing.T, fn func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.Name() == ".git" {
				return filepath.SkipDir
			}
			return err
		}
		if ext := filepath.Ext(path); ext != ".go" && ext != ".md" && d.Name() != "Makefile" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fn(path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
