package daemon

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"go.yaml.in/yaml/v3"
)

// ReadFile reads the settings of a YAML file for cmd: its keys are the flags'
// names, its values what the flags take, lists for the repeatable ones. A key
// that no command knows is an error; one that only another command takes is
// passed over, so that one file can serve them all.
func ReadFile(path string, cmd Command) ([]Setting, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("config", "%v", err)
	}
	settings, err := parseYAML(text, cmd)
	if err != nil {
		return nil, usagef("config", "%s: %v", path, err)
	}
	return settings, nil
}

func parseYAML(text []byte, cmd Command) ([]Setting, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, oneLine(err)
	}
	if len(doc.Content) == 0 { // an empty file, or comments only
		return nil, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: not a mapping; write one `flag: value` a line", root.Line)
	}
	options := map[string]Option{}
	for _, o := range Options(ForRun | ForExec) {
		options[o.Name] = o
	}
	var settings []Setting
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		o, ok := options[key.Value]
		if !ok {
			return nil, fmt.Errorf("line %d: unknown key %q%s", key.Line, key.Value, suggest(key.Value, options))
		}
		if seen[o.Name] {
			return nil, fmt.Errorf("line %d: %s: given twice; write a list", key.Line, o.Name)
		}
		seen[o.Name] = true
		values, err := scalars(o, value)
		if err != nil {
			return nil, err
		}
		if o.Commands&cmd != 0 {
			settings = append(settings, values...)
		}
	}
	return settings, nil
}

// scalars takes a key's value apart. The text is passed on as it was written,
// so that `off`, 0x438 and 5m mean what they mean as flags.
func scalars(o Option, n *yaml.Node) ([]Setting, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		s, err := scalar(o, n)
		return []Setting{s}, err
	case n.Kind == yaml.SequenceNode && o.Repeat:
		var all []Setting
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return nil, fmt.Errorf("line %d: %s: list plain values only", item.Line, o.Name)
			}
			s, err := scalar(o, item)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
		return all, nil
	case n.Kind == yaml.SequenceNode:
		return nil, fmt.Errorf("line %d: %s: takes one value, not a list", n.Line, o.Name)
	}
	return nil, fmt.Errorf("line %d: %s: has no value", n.Line, o.Name)
}

func scalar(o Option, n *yaml.Node) (Setting, error) {
	var scratch Config
	if err := o.set(&scratch, n.Value); err != nil {
		return Setting{}, fmt.Errorf("line %d: %s: %w", n.Line, o.Name, err)
	}
	return Setting{Option: o, Value: n.Value}, nil
}

func suggest(key string, options map[string]Option) string {
	names := make([]string, 0, len(options))
	for name, o := range options {
		if !o.Hidden {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	if near := Nearest(key, names); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// oneLine keeps the parser's first complaint: one failure is one line.
func oneLine(err error) error {
	var many *yaml.TypeError
	if errors.As(err, &many) && len(many.Errors) > 0 {
		return errors.New(many.Errors[0])
	}
	return err
}
