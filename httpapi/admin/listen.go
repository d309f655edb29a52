package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	socketMode     = 0o660
	maxSocketPath  = 90 // the kernel takes 107, and the socket is made under a longer name
	readTimeout    = 30 * time.Second
	idleTimeout    = 60 * time.Second
	shutdownGrace  = 5 * time.Second
	maxHeaderBytes = 16 << 10
)

// ErrSocketInUse: another process serves the admin socket.
var ErrSocketInUse = errors.New("another process is serving it (is an appliance already running?)")

// ListenSocket makes the admin socket at path, mode 0660. What a process that
// has died left there is removed; what one that lives serves, or what is no
// socket, is not.
func ListenSocket(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on admin socket %s: the path is longer than %d bytes: set http.admin_socket", path, maxSocketPath)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on admin socket %s: %w", path, err)
	}
	// Between bind and chmod the file must not be more open than it ends up: it
	// is made in a directory of ours, and moved to its place when it is right.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".")
	if err != nil {
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	defer os.RemoveAll(dir)
	hidden := dir + "/s"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on admin socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(hidden, socketMode); err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on admin socket %s: %w", path, err)
	}
	return &socketListener{UnixListener: l, path: path}, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file that is no socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return ErrSocketInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // a full queue, or no permission: somebody may be there
		return err
	}
	return os.Remove(path)
}

// socketListener takes its file with it when it closes, unless another process
// has put its own there meanwhile.
type socketListener struct {
	*net.UnixListener
	path string
}

// Close implements net.Listener.
func (l *socketListener) Close() error {
	err := l.UnixListener.Close()
	if !errors.Is(err, net.ErrClosed) { // the first time
		removeStale(l.path) // and if it stays, the next start removes it
	}
	return err
}

// ServeSocket serves the admin socket on l, which may have come from systemd,
// until ctx ends, and then closes it.
func (h *Handler) ServeSocket(ctx context.Context, l net.Listener) error {
	return h.run(ctx, l, h.Socket(), func(ctx context.Context, c net.Conn) context.Context {
		actor, err := peer(c)
		if err != nil {
			h.log.ErrorContext(ctx, "admin: the caller's credentials cannot be read", "error", err)
			return ctx // without an actor, every request is refused
		}
		return WithActor(ctx, actor)
	})
}

// ServeOps serves the ops listener until ctx ends, and then closes it. What
// asks for the token depends on the address that l really has.
func (h *Handler) ServeOps(ctx context.Context, l net.Listener) error {
	if _, unix := l.Addr().(*net.UnixAddr); unix {
		return h.run(ctx, l, h.opsRoutes(true), nil) // no browser comes here, and no name leads here
	}
	return h.run(ctx, l, h.Ops(isLoopback(l.Addr())), nil)
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func (h *Handler) run(ctx context.Context, l net.Listener, handler http.Handler, onConn func(context.Context, net.Conn) context.Context) error {
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	server := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       onConn,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// Requests in flight may finish; one that takes long (a backup may take
	// hours) is told to stop; one that still does not is cut off.
	if h.shutdown(server) != nil {
		cut(errStopping)
		if h.shutdown(server) != nil {
			server.Close()
		}
	}
	<-served
	return nil
}

var errStopping = errors.New("the appliance is stopping")

func (h *Handler) shutdown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), h.grace)
	defer cancel()
	return server.Shutdown(ctx)
}

// peer names who is at the other end, by what the kernel noted when it
// connected.
func peer(c net.Conn) (string, error) {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return "", fmt.Errorf("connection is a %T", c)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return "", err
	}
	uid := strconv.Itoa(int(cred.Uid))
	if u, err := user.LookupId(uid); err == nil {
		return "uid=" + uid + "(" + u.Username + ")", nil
	}
	return "uid=" + uid, nil
}
