package arch_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every `make verb` and every file that the documents name is there, and so
// is every flag of netstackd that they use.
func TestDocumentsNameWhatExists(t *testing.T) {
	makefile := read(t, "Makefile")
	options := read(t, "internal/config/option.go")
	documents := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
	walk(t, func(path string, _ []byte) {
		if rel, err := filepath.Rel(root, path); err == nil && strings.HasPrefix(rel, "docs/") && strings.HasSuffix(rel, ".md") {
			documents = append(documents, rel)
		}
	})
	for _, doc := range documents {
		text := read(t, doc)
		for _, m := range regexp.MustCompile("(?m)(?:^|[`&;] *)make ([a-z]+)").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: make %s: no such verb", doc, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", doc, m[1], err)
			}
		}
		for _, line := range strings.Split(text, "\n") {
			at := strings.Index(line, "./netstackd")
			if at < 0 {
				continue
			}
			ours, _, _ := strings.Cut(line[at:], " -- ") // what follows is the command's own
			for _, m := range regexp.MustCompile(`--([a-z][a-z0-9-]+)`).FindAllStringSubmatch(ours, -1) {
				if !strings.Contains(options, `"`+m[1]+`"`) && m[1] != "config" && m[1] != "help" && m[1] != "json" && m[1] != "plot" {
					t.Errorf("%s: netstackd has no --%s", doc, m[1])
				}
			}
		}
	}
}

// command is the first command that the README shows under a heading.
func command(t *testing.T, heading string) string {
	t.Helper()
	_, section, found := strings.Cut(read(t, "README.md"), "\n"+heading+"\n")
	_, command, shown := strings.Cut(section, "\n    ")
	if !found || !shown {
		t.Fatalf("README.md shows no command under %q", heading)
	}
	command, _, _ = strings.Cut(command, "\n")
	return command
}

// The README's two commands are those that .ci/fresh-machine proves, and need
// nothing that a minimal Debian with Go lacks.
func TestReadmeCommands(t *testing.T) {
	run, test := command(t, "## Run it"), command(t, "## Test it")
	if want := "go build ./cmd/netstackd && ./netstackd"; run != want {
		t.Errorf("the first command is %q, want %q", run, want)
	}
	if want := ".ci/test"; test != want {
		t.Errorf("the second command is %q, want %q", test, want)
	}
	for script, want := range map[string][]string{
		".ci/run":           {"\n.ci/test\n"},
		".ci/test":          {"\n.ci/install\n", "NETSTACKD_INTEGRATION=1 make test\n"},
		".ci/fresh-machine": {"'## Run it'", "'## Test it'"},
	} {
		text := read(t, script)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s lacks %q", script, w)
			}
		}
	}
}

// Every test and every row of torture that docs/security.md and docs/gvisor.md name
// exists.
func TestDocumentsNameTheirTests(t *testing.T) {
	tests := map[string]bool{}
	var rows strings.Builder
	walk(t, func(path string, text []byte) {
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasSuffix(path, "_test.go"):
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
				tests[rel+"."+string(m[1])] = true
			}
		case rel == "bench/torture" && strings.HasSuffix(path, ".go"):
			rows.Write(text)
		}
	})
	doc := read(t, "docs/security.md") + read(t, "docs/gvisor.md")
	named := 0
	for _, m := range regexp.MustCompile("`([\\w/]+\\.(?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(doc, -1) {
		if named++; !tests[m[1]] {
			t.Errorf("the documents name %s, which does not exist", m[1])
		}
	}
	for _, list := range regexp.MustCompile("torture: (`[^`]+`(?:, `[^`]+`)*)").FindAllStringSubmatch(doc, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(list[1], -1) {
			if named++; !strings.Contains(rows.String(), `"`+m[1]+`"`) {
				t.Errorf("docs/security.md names the row %q of bench/torture, which does not exist", m[1])
			}
		}
	}
	if named < 40 {
		t.Errorf("the documents name %d tests: the patterns above no longer match them", named)
	}
}

// Each hop of the walks in docs/architecture.md is a function of its file.
func TestWalksNameTheirHops(t *testing.T) {
	_, walks, ok := strings.Cut(read(t, "docs/architecture.md"), "\n## Four walks\n")
	if !ok {
		t.Fatal("docs/architecture.md has no walks")
	}
	walks, _, _ = strings.Cut(walks, "\n## ")
	hops := regexp.MustCompile("(?m)^\\| `([A-Za-z0-9]+)` \\| `([a-z0-9_/]+\\.go)` \\|").FindAllStringSubmatch(walks, -1)
	if len(hops) < 30 {
		t.Errorf("%d hops were found", len(hops))
	}
	for _, hop := range hops {
		is := regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + hop[1] + `\b`)
		if !is.MatchString(read(t, hop[2])) {
			t.Errorf("%s has no %s", hop[2], hop[1])
		}
	}
}
