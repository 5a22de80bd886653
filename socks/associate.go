package socks

import "context"

func (c *client) associate(ctx context.Context, hint Addr) { c.refuse(hint.String(), errCommand) }
