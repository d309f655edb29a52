package webhook

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startHTTP2 starts a receiver that speaks HTTP/2 alone, and settings to reach it.
func startHTTP2(t *testing.T, h http.HandlerFunc) (*httptest.Server, Settings) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, Settings{Allow: loopback, TLS: s.Client().Transport.(*http.Transport).TLSClientConfig}
}

// TestHTTP2AnswersAreBounded: a receiver that answers without end gets rid of little
// of it, and the next call goes as if nothing had been.
func TestHTTP2AnswersAreBounded(t *testing.T) {
	var written atomic.Int64
	ended := make(chan struct{}, 1)
	s, settings := startHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("a call by %s", r.Proto)
		}
		if r.URL.Path != "/flood" {
			return
		}
		defer func() { ended <- struct{}{} }()
		for chunk := make([]byte, 16<<10); ; {
			n, err := w.Write(chunk)
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	})
	c := newChannel(t, settings, nil, newSecret)
	for range 5 {
		if _, err := c.Send(t.Context(), delivery(s.URL+"/flood", "x")); err != nil {
			t.Errorf("flood: %v", err)
		}
		<-ended
		if n := written.Swap(0); n > 8*maxAnswerBody {
			t.Errorf("the receiver could send %d bytes", n)
		}
	}
	if _, err := c.Send(t.Context(), delivery(s.URL+"/", "x")); err != nil {
		t.Errorf("after the floods: %v", err)
	}
}

// silencer passes connections on until it is told to let those that there are die
// without a word, as a firewall does that has forgotten them.
type silencer struct {
	net.Listener
	to string

	mu    sync.Mutex // guards what follows
	mute  []*atomic.Bool
	conns []net.Conn
	count int
}

func (s *silencer) run() {
	for {
		in, err := s.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", s.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		silent := new(atomic.Bool)
		s.mu.Lock()
		s.mute, s.conns, s.count = append(s.mute, silent), append(s.conns, in, out), s.count+1
		s.mu.Unlock()
		for _, way := range [2][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				for buf := make([]byte, 32<<10); ; {
					n, err := way[0].Read(buf)
					if err != nil {
						return
					}
					if !silent.Load() {
						_, _ = way[1].Write(buf[:n])
					}
				}
			}()
		}
	}
}

func (s *silencer) silence() (connections int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.mute {
		m.Store(true)
	}
	return s.count
}

func (s *silencer) stop() {
	_ = s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

// TestDeadHTTP2Connection: a connection that has died without a word takes the calls
// that are under way with it, and not those after them.
func TestDeadHTTP2Connection(t *testing.T) {
	s, settings := startHTTP2(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	between := &silencer{Listener: l, to: s.Listener.Addr().String()}
	go between.run()
	t.Cleanup(between.stop)
	settings.Timeout = time.Second // a busy machine makes a new connection within it
	c := newChannel(t, settings, nil, newSecret)
	to := "https://" + l.Addr().String() + "/"
	if _, err := c.Send(t.Context(), delivery(to, "x")); err != nil {
		t.Fatal(err)
	}
	if n := between.silence(); n != 1 {
		t.Fatalf("%d connections, want 1", n)
	}
	began, lost := time.Now(), 0
	for ; time.Since(began) < 20*time.Second; lost++ {
		if _, err := c.Send(t.Context(), delivery(to, "x")); err == nil {
			break
		}
	}
	if lost == 0 || lost > 5 {
		t.Errorf("%d calls were lost with the connection, want some and few", lost)
	}
}
