package auth_test

import (
	"context"
	"fmt"
	"net/netip"

	"netstackd/socks/auth"
	"netstackd/socks/wire"
)

// The users can come from a file as well: its name is the second argument.
func Example() {
	users, err := auth.New([]string{
		"alice:secret",
		"bob:$2a$04$WtMELT47AZvaxm7/j5FsxuwubigTMNrkWYKYYG11rXqcBsTLyU8/W",
	}, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	source := netip.MustParseAddr("192.0.2.7")
	for _, pass := range []string{"secret", "guessed"} {
		fmt.Println(users.VerifyFrom(context.Background(), source, wire.UserPass{User: "alice", Pass: pass}))
	}
	// Output:
	// true
	// false
}
