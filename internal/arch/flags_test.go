package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namesFlags are the packages that know the command line: all others return
// errors about their own configuration, to which these add the flag.
var namesFlags = regexp.MustCompile(`^(cmd|bench|internal/(config|daemon|doctor|arch))(/|$)`)

// TestLibrariesNameNoFlags looks for flags of netstackd in string literals.
func TestLibrariesNameNoFlags(t *testing.T) {
	flags := []string{"config"}
	for _, m := range regexp.MustCompile(`(?:one|list|duration)\("([a-z0-9-]+)"|Name: "([a-z0-9-]+)"`).
		FindAllStringSubmatch(read(t, "internal/config/option.go"), -1) {
		flags = append(flags, m[1]+m[2])
	}
	if len(flags) < 30 {
		t.Fatalf("only %d flags in internal/config/option.go: the search is broken", len(flags))
	}
	flag := regexp.MustCompile(`--(` + strings.Join(flags, "|") + `)([^a-z0-9-]|$)`)
	walk(t, func(path string, text []byte) {
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || namesFlags.MatchString(rel) {
			return
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && flag.MatchString(lit.Value) {
				t.Errorf("%s names a flag: %s", files.Position(lit.Pos()), lit.Value)
			}
			return true
		})
	})
}
