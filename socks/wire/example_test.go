package wire_test

import (
	"fmt"
	"io"

	"netstackd/socks/wire"
)

// A request arrives in two parts. The parser says that the first is incomplete.
func ExampleParseRequest() {
	addr, err := wire.ParseHostPort("example.com:443")
	if err != nil {
		fmt.Println(err)
		return
	}
	message, err := wire.Request{Command: wire.Connect, Addr: addr}.Append(nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	_, _, err = wire.ParseRequest(message[:9])
	fmt.Println(err == io.ErrUnexpectedEOF)
	request, n, err := wire.ParseRequest(append(message, "early data"...))
	fmt.Println(request.Command, request.Addr, n == len(message), err)
	// Output:
	// true
	// connect example.com:443 true <nil>
}
