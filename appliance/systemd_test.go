package appliance_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
)

// TestRestartOnAnInheritedSocketRefusesNobody restarts appliances again and
// again on one listening socket, as systemd holds it, under load over
// connections that are kept alive.
func TestRestartOnAnInheritedSocketRefusesNobody(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t) // makes the account
	must(t, "stop", n.Stop())
	c := appliancetest.Config(n.Dir())

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, "listen", err)
	defer tcp.Close()
	file, err := tcp.(*net.TCPListener).File()
	must(t, "take the socket's file", err)
	defer file.Close()

	start := func() (stop func() error) {
		socket, err := net.FileListener(file)
		must(t, "inherit the socket", err)
		a, err := appliance.New(appliance.Options{Config: c, Version: "test", Listeners: map[string]net.Listener{"api": socket},
			Logger: slog.New(slog.DiscardHandler)})
		must(t, "start", err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		return func() error { cancel(); return <-ended }
	}
	stop := start()
	target := appliancetest.Target{URL: "http://" + tcp.Addr().String(), Key: n.Key,
		Client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	defer target.Client.CloseIdleConnections()
	ledger := appliancetest.NewLedger()
	loadWhile(ledger, target, 16, "r-", seedOf(t), func() {
		for range 3 {
			<-time.After(300 * time.Millisecond)
			must(t, "stop", stop())
			stop = start()
		}
		<-time.After(300 * time.Millisecond)
	})
	must(t, "every answer is 202", checkOutcomes(ledger, "202"))
	if len(ledger.Acked()) == 0 {
		t.Fatal("nothing was sent")
	}
	must(t, "look up", ledger.LookUp(target, ledger.Acked(), ""))
	target.Client.CloseIdleConnections()
	must(t, "stop", stop())
}
