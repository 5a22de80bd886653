package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"go.yaml.in/yaml/v4"
)

// ReadFile reads the settings of a YAML file for cmd: its keys are the flags'
// names, its values what the flags take, lists for the repeatable ones. A key
// that no command knows is an error; one that only another command takes is
// noted in Config.PassedOver, so that one file can serve them all.
func ReadFile(path string, cmd Command) ([]Setting, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("config", "%v", err)
	}
	settings, err := parseYAML(text, cmd)
	if err != nil {
		return nil, usagef("config", "%s:%v", path, err)
	}
	return settings, nil
}

// parseYAML returns the settings of one document. Its errors begin with the
// place, LINE:COLUMN.
func parseYAML(text []byte, cmd Command) ([]Setting, error) {
	documents, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, syntaxError(err)
	}
	var doc, second yaml.Node
	if err := documents.Load(&doc); errors.Is(err, io.EOF) { // an empty file, or comments only
		return nil, nil
	} else if err != nil {
		return nil, syntaxError(err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, errorAt(root, "not a mapping; write one `flag: value` a line")
	}
	if err := documents.Load(&second); err == nil {
		return nil, errorAt(&second, "a second document; a file has one, without --- between its lines")
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(err)
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
			return nil, errorAt(key, "unknown key %q%s", key.Value, suggest(key.Value, options))
		}
		if seen[o.Name] {
			return nil, errorAt(key, "%s: given twice%s", o.Name, listHint(o))
		}
		seen[o.Name] = true
		values, err := scalars(o, value)
		if err != nil {
			return nil, err
		}
		if o.Commands&cmd != 0 {
			settings = append(settings, values...)
		} else {
			settings = append(settings, passOver(o))
		}
	}
	return settings, nil
}

// passOver notes a key that the command doesn't take.
func passOver(o Option) Setting {
	return Setting{Option: Option{Name: o.Name, set: func(c *Config, _ string) error {
		c.PassedOver = append(c.PassedOver, o.Name)
		return nil
	}}}
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
		if len(n.Content) == 0 {
			return []Setting{{Option: o, None: true}}, nil
		}
		var all []Setting
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return nil, errorAt(item, "%s: list plain values only", o.Name)
			}
			s, err := scalar(o, item)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
		return all, nil
	case n.Kind == yaml.SequenceNode:
		return nil, errorAt(n, "%s: takes one value, not a list", o.Name)
	}
	return nil, errorAt(n, "%s: has no value", o.Name)
}

func scalar(o Option, n *yaml.Node) (Setting, error) {
	var scratch Config
	if err := o.set(&scratch, n.Value); err != nil {
		return Setting{}, errorAt(n, "%s: %w", o.Name, err)
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

func listHint(o Option) string {
	if o.Repeat {
		return "; write a list"
	}
	return "; leave one out"
}

// errorAt is an error that begins with the node's place.
func errorAt(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%d:%d: "+format, append([]any{n.Line, n.Column}, args...)...)
}

// syntaxError gives the parser's error the form of the others. An error that is
// found before there are lines, such as text that is not UTF-8, has no place.
func syntaxError(err error) error {
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		return fmt.Errorf(" %w", err)
	}
	if at.Mark.Line == 0 {
		return errors.New(" " + at.Message)
	}
	return fmt.Errorf("%d:%d: %s", at.Mark.Line, at.Mark.Column, at.Message)
}
