package appliance

import (
	"context"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// Run watches the files and the probation until ctx ends.
func (r *reloads) run(ctx context.Context, reload func(ctx context.Context, source, who string) (admin.ConfigResult, error)) error {
	watched := make(chan error, 1)
	go func() {
		if r.files.Path == "" || r.unwatched {
			watched <- nil
			return
		}
		loaded := func() config.Config { return r.state.Load().loaded }
		w := config.Watcher{Logger: r.logger,
			Files:       func() []string { return r.files.Inputs(loaded()) },
			Directories: func() []string { return r.files.Directories(loaded()) },
			Changed: func(ctx context.Context) {
				if _, err := reload(ctx, config.SourceFile, r.owner()); err != nil && ctx.Err() == nil {
					r.logger.Error("configuration: the changed file could not be taken up", "err", err)
				}
			}}
		watched <- w.Run(ctx)
	}()
	ticker := time.NewTicker(r.probation / probationLooks)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			r.look(ctx, now)
		case <-ctx.Done():
			return <-watched
		}
	}
}

// owner is who owns the file that changed last: the nearest that can be known to
// who has changed it.
func (r *reloads) owner() string {
	var newest os.FileInfo
	var path string
	for _, name := range r.files.Inputs(r.state.Load().loaded) {
		if info, err := os.Stat(name); err == nil && (newest == nil || info.ModTime().After(newest.ModTime())) {
			newest, path = info, name
		}
	}
	if newest == nil {
		return ""
	}
	who := filepath.Base(path)
	if stat, ok := newest.Sys().(*syscall.Stat_t); ok {
		who += " of uid=" + userName(strconv.Itoa(int(stat.Uid)))
	}
	return who
}

func userName(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return uid + "(" + u.Username + ")"
	}
	return uid
}

func currentUser() string { return "uid=" + userName(strconv.Itoa(os.Getuid())) }

func keysOf(changes []admin.ConfigKey) []string {
	keys := []string{}
	for _, c := range changes {
		keys = append(keys, c.Key)
	}
	return keys
}
