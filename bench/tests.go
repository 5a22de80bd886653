package bench

import (
	"slices"
	"strings"
)

// A Metric is one thing that a test finds out about a path.
type Metric struct {
	Name   string
	Title  string
	Unit   string
	Higher bool // is better
	Ratio  bool // to the kernel's means something
}

// A Test is one kind of measurement.
type Test struct {
	Name    string
	Metrics []Metric
}

// Tests are all there are, in the order of the table.
func Tests() []Test {
	cpu := func(name string) Metric { return Metric{name + "-cpu", "  CPU of the program", "s/Gb", false, false} }
	rate := func(name, title, unit string) Metric { return Metric{name, title, unit, true, true} }
	gigabits := func(name, title string) Test {
		return Test{name, []Metric{rate(name, title, "Gb/s"), cpu(name)}}
	}
	loss := func(name string) Metric { return Metric{name + "-lost", "  lost", "%", false, false} }
	return []Test{
		gigabits("up1", "TCP up, 1 connection"),
		gigabits("up8", "TCP up, 8 connections"),
		gigabits("down1", "TCP down, 1 connection"),
		gigabits("down8", "TCP down, 8 connections"),
		{"request", []Metric{
			{"request", "request/response, p50", "µs", false, true},
			{"request-p99", "  p99", "µs", false, true},
			{"request-cpu", "  CPU of the program", "µs each", false, false},
		}},
		{"connect", []Metric{
			rate("connect", "connect/request/response/close, 16 at once", "/s"),
			{"connect-cpu", "  CPU of the program", "µs each", false, false},
		}},
		{"echo", []Metric{
			rate("echo", "UDP echoes, 1200 bytes, 16 flows × 8", "/s"),
			{"echo-cpu", "  CPU of the program", "µs each", false, false},
			loss("echo"),
		}},
		{"single", []Metric{rate("single", "UDP echoes, 4 flows × 40", "/s"), loss("single")}},
		{"train", []Metric{rate("train", "UDP echoes, the same in trains (UDP_SEGMENT)", "/s"), loss("train")}},
		{"memory", []Metric{
			{"memory", "memory of an idle TCP flow", "KB", false, false},
			{"memory-kept", "  not given back", "%", false, false},
			{"memory-wait", "  nine tenths given back, or given up, after", "s", false, false},
		}},
		{"destinations", []Metric{
			{"destinations-packet", "cost of a datagram, many destinations ÷ one", "×", false, false},
			{"destinations-flow", "cost of a new flow, many destinations ÷ one", "×", false, false},
		}},
		{"idle", []Metric{{"idle", "CPU when idle", "s/min", false, false}}},
	}
}

func findTest(name string) (Test, bool) {
	tests := Tests()
	i := slices.IndexFunc(tests, func(t Test) bool { return t.Name == name })
	if i < 0 {
		return Test{}, false
	}
	return tests[i], true
}

// TestNames lists the names of Tests.
func TestNames() string {
	var names []string
	for _, t := range Tests() {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", ")
}
