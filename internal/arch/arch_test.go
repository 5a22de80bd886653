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
	root   = "../.."
)

// A row is one package of the table in docs/architecture.md.
type row struct {
	name           string
	imports, tests []string // short names, as the table has them
}

// table reads the packages of docs/architecture.md in their order.
func table(t *testing.T) []row {
	t.Helper()
	var rows []row
	_, text, _ := strings.Cut(read(t, "docs/architecture.md"), "| package |")
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name := strings.Trim(strings.TrimSpace(cells[0]), "`")
		if len(cells) == 1 && len(rows) > 0 {
			return rows
		}
		if len(cells) != 3 || strings.HasPrefix(name, "-") {
			continue
		}
		imports, tests, _ := strings.Cut(cells[2], "; tests:")
		rows = append(rows, row{name, list(imports), list(tests)})
	}
	t.Fatal("docs/architecture.md has no table of packages")
	return nil
}

func list(cell string) []string {
	var names []string
	for name := range strings.SplitSeq(cell, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// short is the name of an import in the table, "" for the standard library's.
func short(path string) string {
	if own, ok := strings.CutPrefix(path, module); ok {
		return strings.TrimPrefix(own, "internal/")
	}
	parts := strings.Split(path, "/")
	switch {
	case !strings.Contains(parts[0], "."):
		return ""
	case parts[0] == "gvisor.dev":
		return "gVisor"
	case parts[0] == "golang.org":
		return "x/" + parts[2]
	case parts[0] == "github.com":
		return parts[2]
	}
	return parts[1]
}

func shorts(paths []string) []string {
	var names []string
	for _, path := range paths {
		if name := short(path); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// everyTest is what any test may import.
func everyTest(name string) bool {
	return name == "tun" || name == "tun/tuntest" || name == "testnet" || name == "goleak" || strings.HasPrefix(name, "x/")
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// packages are those of this module, as `go list` knows them.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
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

// The table of docs/architecture.md is the import graph, and each package
// imports only those above it.
func TestImportGraph(t *testing.T) {
	all := packages(t)
	above := map[string]bool{}
	for _, r := range table(t) {
		p, exists := all[r.name]
		if !exists {
			t.Errorf("%s is in the table but not in the tree", r.name)
			continue
		}
		delete(all, r.name)
		imports := shorts(p.Imports)
		if !slices.Equal(imports, r.imports) {
			t.Errorf("%s imports %v; the table says %v", r.name, imports, r.imports)
		}
		for _, path := range p.Imports {
			if own, ok := strings.CutPrefix(path, module); ok && !above[own] {
				t.Errorf("%s imports %s, which is not above it in the table", r.name, own)
			}
		}
		self := short(module + r.name)
		tests := slices.DeleteFunc(shorts(append(p.TestImports, p.XTestImports...)), func(name string) bool {
			return name == self || everyTest(name) || slices.Contains(imports, name)
		})
		if !slices.Equal(tests, r.tests) {
			t.Errorf("tests of %s import %v; the table says %v", r.name, tests, r.tests)
		}
		above[r.name] = true
	}
	for name := range all {
		t.Errorf("%s is not in the table of docs/architecture.md", name)
	}
}

// A package outside internal, cmd and bench is public: a program of another module
// can use it. It imports no internal package, except in tests.
func TestPublicPackages(t *testing.T) {
	public := map[string]bool{"tun": false, "queue": false, "link": false, "socks": false}
	for name, p := range packages(t) {
		switch first, _, _ := strings.Cut(name, "/"); first {
		case "internal", "cmd", "bench":
			continue
		}
		public[name] = true
		for _, path := range p.Imports {
			if strings.HasPrefix(path, module) && strings.Contains(path+"/", "/internal/") {
				t.Errorf("%s is public and imports %s", name, path)
			}
		}
	}
	for name, exists := range public {
		if !exists {
			t.Errorf("there is no package %s", name)
		}
	}
}

// Only tests import the test harness, and no package has an init function.
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

// No file has more lines than a reader takes in, and each package of more than
// 2,000 has its reason in docs/decisions.
func TestSizes(t *testing.T) {
	reasons := read(t, "docs/decisions/package-size.md")
	lines := make(map[string]int)
	walk(t, func(path string, text []byte) {
		if filepath.Ext(path) != ".go" {
			return
		}
		n := bytes.Count(text, []byte("\n"))
		if n > 400 {
			t.Errorf("%s has %d lines", path, n)
		}
		if dir, err := filepath.Rel(root, filepath.Dir(path)); err == nil && !strings.HasSuffix(path, "_test.go") {
			lines[filepath.ToSlash(dir)] += n
		}
	})
	for dir, n := range lines {
		if n > 2000 && !strings.Contains(reasons, "`"+dir+"`") {
			t.Errorf("%s has %d lines, and no reason in docs/decisions/package-size.md", dir, n)
		}
	}
}
