package daemon

import (
	"context"
	"errors"
	"syscall"

	"netstackd/internal/config"
	"netstackd/internal/hostnet"
	"netstackd/internal/netcfg"
	"netstackd/tun"
)

// unoccupied reports in one error everything that another program, such as a second
// netstackd, has taken: the interface, the addresses and the ports. err is the error
// of opening the interface. On an error it closes dev.
func unoccupied(cfg config.Config, dev *tun.Device, err error) error {
	errs := []error{withFlag(err)}
	link := ""
	if err == nil {
		link = dev.Name()
	}
	errs = append(errs, withFlag(netcfg.AddressesFree(link, cfg.Address)))
	for _, addr := range cfg.SOCKS {
		ln, err := hostnet.ListenLocal(context.Background(), addr, cfg.KeepAlive)
		switch {
		case err == nil:
			ln.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			errs = append(errs, listenError(addr, err))
		}
	}
	all := errors.Join(errs...)
	if all != nil && err == nil {
		dev.Close()
	}
	return all
}
