package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// moved is what each interface of host A has moved, in bytes: towards the
// program first (the kernel's transmitted), then away from it.
func (l *lab) moved() (map[string][2]int64, error) {
	text, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return nil, err
	}
	all := map[string][2]int64{}
	for line := range strings.Lines(string(text)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 9 {
			continue
		}
		in, err1 := strconv.ParseInt(f[8], 10, 64)
		out, err2 := strconv.ParseInt(f[0], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("/proc/net/dev: %w", err)
		}
		all[strings.TrimSpace(name)] = [2]int64{in, out}
	}
	return all, nil
}

// quiet waits until what an earlier load left under way has arrived, and
// returns what the interfaces have moved by then, and the server has received.
func (l *lab) quiet(ctx context.Context) (moved map[string][2]int64, received int64, err error) {
	last, same := int64(0), 0
	for range 150 {
		if moved, err = l.moved(); err != nil {
			return nil, 0, err
		}
		if received, err = l.server.received(); err != nil {
			return nil, 0, err
		}
		sum := received
		for _, m := range moved {
			sum += m[0] + m[1]
		}
		if same++; sum-last > 4<<10 {
			same = 0
		}
		if same == 3 { // a busy machine may pause for longer than one look
			return moved, received, nil
		}
		last = sum
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return nil, 0, err
		}
	}
	return nil, 0, errors.New("an earlier load goes on")
}

// slack is what a TUN that carries nothing of ours may still move: the kernel's
// own packets, and the end of what it carried before.
const slack = 256 << 10

// prove checks that so many bytes of payload took the route: that its TUN has
// moved at least as many each way since, and that the others have not. It
// returns how many bytes the route's TUN moved for each of them.
func (l *lab) prove(r *route, before map[string][2]int64, up, down int64) (float64, error) {
	after, err := l.moved()
	if err != nil {
		return -1, err
	}
	ratio := -1.0
	for _, p := range l.programs {
		if p.TUN == "" || p.process == nil {
			continue
		}
		now, ok := after[p.TUN]
		if !ok {
			return -1, fmt.Errorf("%s has no interface %s any more", p.Name, p.TUN)
		}
		in, out := now[0]-before[p.TUN][0], now[1]-before[p.TUN][1]
		if p == r.program && !r.PastTUN {
			ratio = float64(in+out) / float64(max(up+down, 1))
			if r.FromTUN {
				in, out = out, in
			}
			if in < up || out < down {
				return ratio, fmt.Errorf("%s moved %d bytes in and %d out, for %d and %d that arrived: the traffic did not pass it",
					p.TUN, in, out, up, down)
			}
		} else if limit := slack + (up+down)/20; in+out > limit {
			return ratio, fmt.Errorf("%s moved %d bytes, for %d that should have gone past it", p.TUN, in+out, up+down)
		}
	}
	return ratio, nil
}
