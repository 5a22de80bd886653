package daemon

import (
	"errors"
	"log/slog"
	"os"

	"netstackd/internal/config"
	"netstackd/socks/auth"
)

// credentials returns the users that may use the SOCKS listeners. nil means that no
// password is asked for.
func credentials(cfg config.Config, log *slog.Logger) (*auth.Credentials, error) {
	if len(cfg.Auth) == 0 && cfg.AuthFile == "" {
		return nil, nil
	}
	entries := make([]string, 0, len(cfg.Auth))
	for _, c := range cfg.Auth {
		entries = append(entries, c.User+":"+c.Password)
	}
	users, err := auth.New(entries, cfg.AuthFile)
	if err != nil {
		flag := "auth"
		if at, ok := errors.AsType[*auth.Error](err); ok && at.File != "" {
			flag = "auth-file"
		}
		return nil, &flagError{flag, err}
	}
	warnOfOthers(cfg.AuthFile, log)
	return users, nil
}

// warnOfOthers warns of a password file that every user of this host can read or
// write. Access by a group may be intended.
func warnOfOthers(file string, log *slog.Logger) {
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o006 == 0 {
		return
	}
	log.Warn("--auth-file is open to every user of this host; close it: chmod 600 "+file, "mode", info.Mode().Perm())
}

// reread reads the --auth-file again on SIGHUP and logs what changed. No other file
// is read again.
func reread(users *auth.Credentials, file string, log *slog.Logger) {
	if file == "" {
		log.Info("SIGHUP: nothing to read again, since there is no --auth-file; a restart takes new flags and a new --config")
		return
	}
	if err := users.Reload(); err != nil {
		log.Error("SIGHUP: --auth-file was not read again; the old entries hold", "err", err)
		return
	}
	switch c := users.Changes(); {
	case c.Added+c.Removed+c.Changed == 0:
		log.Info("SIGHUP: --auth-file read again; no user has changed", "users", c.Users)
	default:
		log.Info("SIGHUP: --auth-file read again; flags and --config stay as they were",
			"users", c.Users, "added", c.Added, "changed", c.Changed, "removed", c.Removed)
	}
	warnOfOthers(file, log)
}
