package whatsapp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// maxToken bounds an access token's file, in bytes.
const maxToken = 64 << 10

// lookAgain is how often the token's file is looked at, at most.
const lookAgain = time.Second

// TokenFile is an access token that lives in a file and is read again when the
// file has changed: whoever renews the token replaces the file, and nothing
// else. A file that cannot be read leaves the token that was read last.
type TokenFile struct {
	path string

	mu     sync.Mutex
	token  string
	seen   os.FileInfo
	looked time.Time
}

// NewTokenFile reads the file.
func NewTokenFile(path string) (*TokenFile, error) {
	f := &TokenFile{path: path}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Token returns the token as of a second ago or less.
func (f *TokenFile) Token() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= lookAgain {
		f.looked = now
		if info, err := os.Stat(f.path); err == nil && f.changed(info) {
			// The old token serves while the file is being written.
			_ = f.read()
		}
	}
	return f.token, nil
}

// again reads the file now, whatever its times say: the token was refused. It
// reports whether there is another one.
func (f *TokenFile) again(refused string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.read()
	return f.token != refused
}

func (f *TokenFile) changed(info os.FileInfo) bool {
	return f.seen == nil || !os.SameFile(info, f.seen) || !info.ModTime().Equal(f.seen.ModTime()) || info.Size() != f.seen.Size()
}

func (f *TokenFile) read() error {
	file, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("read access token: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("read access token: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxToken))
	if err != nil {
		return fmt.Errorf("read access token: %w", err)
	}
	token := strings.TrimRight(string(content), "\r\n")
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("read access token: the file does not hold a token alone")
	}
	f.token, f.seen = token, info
	return nil
}
