package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strconv"
	"strings"
	"testing"
)

// programArgument is the index of the argument with which a call names the
// program that it looks for or runs. Of RequireTool's, all that follow are
// programs, too.
var programArgument = map[string]int{
	"RequireTool":         1,
	"program":             1, // socks: program(t, NAME, PACKAGE)
	"exec.LookPath":       0,
	"exec.Command":        0,
	"exec.CommandContext": 1,
	"Command":             1, // Host.Command(ctx, NAME)
	"Output":              0, // Host.Output(NAME)
	"Run":                 1, // Host.Run(t, NAME)
}

// Every program that a test runs is one that .ci/install installs.
func TestToolsAreInstalled(t *testing.T) {
	installed := map[string]bool{"go": true, "sh": true} // every Debian machine with Go has them
	_, list, _ := strings.Cut(read(t, ".ci/install"), "\nNEEDS='\n")
	list, _, _ = strings.Cut(list, "\n'\n")
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		for _, proof := range fields[1:] {
			installed[path.Base(proof)] = true
		}
	}
	found := 0
	walk(t, func(file string, text []byte) {
		if !strings.HasSuffix(file, "_test.go") && !strings.Contains(file, "/internal/testnet/") {
			return
		}
		for tool, at := range toolsOf(t, file, text) {
			found++
			if !installed[tool] {
				t.Errorf("%s needs %s, which .ci/install does not install", at, tool)
			}
		}
	})
	if len(installed) < 20 || found < 20 {
		t.Fatalf("%d programs in .ci/install, %d uses in tests: the search is broken", len(installed), found)
	}
}

// toolsOf returns the programs that a file of Go names, and where.
func toolsOf(t *testing.T, file string, text []byte) map[string]string {
	t.Helper()
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	tools := map[string]string{}
	add := func(e ast.Expr) {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		if name, err := strconv.Unquote(lit.Value); err == nil && !strings.Contains(name, "/") {
			tools[name] = files.Position(lit.Pos()).String()
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := calleeName(call)
		first, known := programArgument[name]
		if !known || first >= len(call.Args) {
			return true
		}
		last := first + 1
		if name == "RequireTool" {
			last = len(call.Args)
		}
		for _, e := range call.Args[first:last] {
			add(e)
		}
		return true
	})
	return tools
}

// calleeName is the called function's name: exec.Command of package exec, and
// a bare Command of anything else.
func calleeName(call *ast.CallExpr) string {
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		if x, ok := fn.X.(*ast.Ident); ok && x.Name == "exec" {
			return "exec." + fn.Sel.Name
		}
		return fn.Sel.Name
	}
	return ""
}
