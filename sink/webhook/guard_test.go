package webhook

import (
	"net/netip"
	"testing"

	"forebay/wal/message"
)

func TestGuard(t *testing.T) {
	closed := newGuard(nil, false)
	open := newGuard([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}, false)
	for address, want := range map[string]struct{ closed, open bool }{
		"93.184.215.14:443":              {true, true},
		"93.184.215.14:8443":             {true, true},
		"93.184.215.14:25":               {false, false},
		"93.184.215.14:80":               {false, false}, // plain HTTP is not allowed here
		"[2606:4700::1111]:443":          {true, true},
		"127.0.0.1:443":                  {false, false},
		"127.8.9.1:443":                  {false, false},
		"0.0.0.0:443":                    {false, false},
		"10.1.2.3:443":                   {false, true},
		"10.1.2.3:22":                    {false, true},
		"10.2.2.3:443":                   {false, false},
		"172.16.0.1:443":                 {false, false},
		"192.168.1.1:443":                {false, false},
		"100.64.0.1:443":                 {false, false},
		"169.254.169.254:80":             {false, false},
		"224.0.0.1:443":                  {false, false},
		"255.255.255.255:443":            {false, false},
		"[::1]:443":                      {false, false},
		"[::]:443":                       {false, false},
		"[::ffff:127.0.0.1]:443":         {false, false},
		"[::ffff:10.1.2.3]:443":          {false, true}, // the same host as 10.1.2.3
		"[::ffff:169.254.169.254]:443":   {false, false},
		"[64:ff9b::7f00:1]:443":          {false, false},
		"[2002:7f00:1::]:443":            {false, false}, // 6to4 of 127.0.0.1
		"[2001:0:7f00:1::]:443":          {false, false}, // Teredo
		"[fe80::1%eth0]:443":             {false, false},
		"[fd00:ec2::254]:443":            {false, true},
		"[fc00::1]:443":                  {false, false},
		"[ff02::1]:443":                  {false, false},
		"localhost:443":                  {false, false}, // not an address: never dialled
		"[::ffff:93.184.215.14]:443":     {true, true},
		"[0:0:0:0:0:ffff:7f00:0001]:443": {false, false},
	} {
		for name, test := range map[string]struct {
			g    *guard
			want bool
		}{"closed": {closed, want.closed}, "open": {open, want.open}} {
			if got := test.g.Control("tcp4", address, nil) == nil; got != test.want {
				t.Errorf("%s, %s: allowed %v, want %v", address, name, got, test.want)
			}
		}
	}
	if closed.Control("udp4", "93.184.215.14:443", nil) == nil {
		t.Error("UDP is allowed")
	}
}

func TestCheckAndService(t *testing.T) {
	c := newChannel(t, Settings{}, nil, oldSecret)
	for to, want := range map[string]struct {
		good    bool
		service string
	}{
		"https://Example.org/a?b=c":        {true, "webhook:example.org:443"},
		"https://example.org.:8443":        {true, "webhook:example.org:8443"},
		"http://example.org/":              {false, "webhook:example.org:80"},
		"https://user:pass@example.org/":   {false, "webhook:invalid"},
		"https:///path":                    {false, "webhook:invalid"},
		"ftp://example.org/":               {false, "webhook:invalid"},
		"https://127.0.0.1/":               {false, "webhook:127.0.0.1:443"},
		"https://[::ffff:10.0.0.1]/":       {false, "webhook:10.0.0.1:443"},
		"https://[2606:4700::1111]:444/":   {true, "webhook:[2606:4700::1111]:444"},
		"https://example.org:0443/":        {true, "webhook:example.org:443"}, // the same host as ever
		"https://EXAMPLE.org.:/":           {true, "webhook:example.org:443"},
		"https://bücher.example/":          {true, "webhook:xn--bcher-kva.example:443"},
		"https://BÜCHER.example/":          {true, "webhook:xn--bcher-kva.example:443"},
		"https://xn--bcher-kva.example/":   {true, "webhook:xn--bcher-kva.example:443"},
		"https://[2606:4700:0::1111]/":     {true, "webhook:[2606:4700::1111]:443"},
		"https://[::ffff:1.1.1.1]/":        {true, "webhook:1.1.1.1:443"},
		"https://a_b.example.org/":         {true, "webhook:a_b.example.org:443"},
		"https://example.org:0/":           {false, "webhook:invalid"},
		"https://example.org:65536/":       {false, "webhook:invalid"},
		"https://example.org:443443443/":   {false, "webhook:invalid"},
		"https://./":                       {false, "webhook:invalid"},
		"https://exa mple.org/":            {false, "webhook:invalid"},
		"https://169.254.169.254/metadata": {false, "webhook:169.254.169.254:443"},
		"":                                 {false, "webhook:invalid"},
	} {
		m := &message.Message{To: to}
		if got := c.Check(m) == nil; got != want.good {
			t.Errorf("%q: good %v, want %v", to, got, want.good)
		}
		if got := c.Service(m); got != want.service {
			t.Errorf("%q: service %s, want %s", to, got, want.service)
		}
	}
	if err := c.Apply(Settings{AllowHTTP: true}); err != nil {
		t.Fatal(err)
	}
	if f := c.Check(&message.Message{To: "http://example.org/"}); f != nil {
		t.Errorf("allow_http has no effect: %v", f)
	}
}
