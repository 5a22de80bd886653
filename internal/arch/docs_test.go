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
	options := read(t, "internal/daemon/config_option.go")
	documents := []string{"README.md", "CONTRIBUTING.md"}
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

// The README's commands are the ones that the Makefile and .ci/run use.
func TestReadmeCommands(t *testing.T) {
	readme := read(t, "README.md")
	for _, want := range []string{"make build", "./netstackd", "curl", "make test"} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.md does not show %q", want)
		}
	}
	if !strings.Contains(read(t, ".ci/run"), "make test") {
		t.Error(".ci/run does not call the README's test command")
	}
}
