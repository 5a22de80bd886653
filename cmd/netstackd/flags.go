package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"netstackd/internal/config"

	"github.com/spf13/pflag"
)

// parseConfig turns a command's arguments into its configuration: defaults,
// then the --config file, then the flags. It returns what follows the flags.
func parseConfig(c command, cfg *config.Config, takes config.Command, args []string) ([]string, error) {
	options := config.Options(takes)
	fs := newFlagSet(c.name)
	var flags []config.Setting
	for _, o := range options {
		f := fs.VarPF(&optionValue{o, &flags}, o.Name, "", o.Help)
		f.Hidden = o.Hidden
		if o.Meta == "" {
			f.NoOptDefVal = "true"
		}
	}
	options = slices.DeleteFunc(options, func(o config.Option) bool { return o.Hidden })
	file := fs.String("config", "", "")
	rest, err := parse(fs, args, func() string { return help(c, options) })
	if err != nil {
		return nil, err
	}
	if fs.Changed("config") {
		settings, err := config.ReadFile(*file, takes)
		if err != nil {
			return nil, err
		}
		if err := cfg.Apply(settings); err != nil {
			return nil, err
		}
	}
	if err := cfg.Apply(flags); err != nil {
		return nil, err
	}
	return rest, cfg.Validate()
}

// newFlagSet is a flag set that prints nothing itself and stops at the first
// word that is no flag.
func newFlagSet(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetInterspersed(false)
	fs.SortFlags = false
	fs.Usage = func() {}
	fs.Bool("version", false, "")
	fs.Lookup("version").Hidden = true // the manual has the command of that name
	return fs
}

// parse reads args and returns what follows the flags. --help and --version
// print and end with pflag.ErrHelp; any other error is one line with a mend.
func parse(fs *pflag.FlagSet, args []string, help func() string) ([]string, error) {
	err := fs.Parse(args)
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case err == nil && fs.Changed("version"):
		fmt.Println(versionLine())
		return nil, pflag.ErrHelp
	case err == nil:
		return fs.Args(), nil
	case errors.Is(err, pflag.ErrHelp):
		fmt.Print(help())
		return nil, err
	case errors.As(err, &unknown):
		word := unknown.GetSpecifiedName()
		dashes := "--"
		if short := unknown.GetSpecifiedShortnames(); short != "" { // "-route" is read as -r -o -u …
			word, dashes = short, "-"
		}
		word, _, _ = strings.Cut(word, "=")
		var names []string
		fs.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		hint := fmt.Sprintf("see netstackd %s --help", fs.Name())
		if near := config.Nearest(word, names); near != "" {
			hint = "did you mean --" + near + "?"
		}
		return nil, usageError(fmt.Sprintf("%s%s: unknown flag; %s", dashes, word, hint))
	case errors.As(err, &missing):
		return nil, usageError(fmt.Sprintf("--%s: needs a value; see netstackd %s --help", missing.GetFlag().Name, fs.Name()))
	case errors.As(err, &invalid):
		// The text of invalid repeats the value, which may be a password.
		if cause := new(config.UsageError); errors.As(err, &cause) {
			return nil, cause
		}
		return nil, usageError(fmt.Sprintf("--%s: %v", invalid.GetFlag().Name, invalid.Unwrap()))
	}
	return nil, usageError(err.Error())
}

// noArguments refuses words that follow the flags of a command that takes none.
func noArguments(name string, rest []string) error {
	if len(rest) == 0 {
		return nil
	}
	return usageError(fmt.Sprintf("%s: unexpected argument %q; flags start with --", name, rest[0]))
}

// optionValue collects an option's values, in order, for config.Config.Apply.
type optionValue struct {
	option   config.Option
	settings *[]config.Setting
}

func (v *optionValue) Set(s string) error {
	*v.settings = append(*v.settings, config.Setting{Option: v.option, Value: s})
	return v.option.Check(s)
}

func (v *optionValue) String() string { return "" }

func (v *optionValue) Type() string { return v.option.Meta }
