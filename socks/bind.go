package socks

import "context"

func (c *client) bind(ctx context.Context, dst Addr) { c.refuse(dst.String(), errCommand) }
