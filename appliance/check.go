package appliance

import (
	"forebay/appliance/config"
	"forebay/raftstate"
)

// Check returns, as config.Problems, what New would refuse of a configuration
// that has been loaded with its secrets: it makes the parts that can be made
// without touching the data directory or the network, the way New does, and
// throws them away. So `forebay config check`, a start and a reload refuse the
// same.
//
// What only the machine can tell at the start (a port in use, a full disk, the
// process's file limit) it does not ask.
func Check(c config.Config, s config.Sources) error {
	var found config.Problems
	refuse := func(key string, err error) {
		if err != nil {
			found = append(found, config.Problem{Where: s.Where(key), Key: key, Message: err.Error()})
		}
	}
	if w := c.Channels.WhatsApp; w.Enabled {
		channel, err := newWhatsApp(w)
		if err == nil {
			err = channel.Close()
		}
		refuse("channels.whatsapp.access_token_file", err)
	}
	if e := c.Channels.Email; e.Enabled {
		channel, err := newEmail(e)
		if err == nil {
			err = channel.Close()
		}
		refuse("channels.email.host", err)
	}
	_, err := webhookSettings(c)
	refuse("channels.webhook.timeout", err)
	if c.Database.URL.Reveal() != "" {
		key := "database.url"
		if c.Database.URLFile != "" {
			key = "database.url_file"
		}
		refuse(key, databaseOf(c).Validate())
	}
	group := groupOf(c)
	group.Fatal = func(error) {} // nothing runs that could
	refuse("cluster.listen", group.Validate())
	if t := group.Cluster.TLS; t != (raftstate.TLSFiles{}) {
		refuse("cluster.tls_cert_file", t.Check())
	}
	refuse("alerts.webhook_url", watchSettings(c).Validate())
	refuse("memory.high", pressureSettings(c).Validate())
	if len(found) == 0 {
		return nil
	}
	return found
}

// loadFiles is the configuration that the files hold now, if a start would take
// it, and what is probably not meant in it. What is wrong with it comes back as
// config.Problems.
func loadFiles(f config.Files) (c config.Config, warnings []string, err error) {
	c, s, err := f.Load()
	if err == nil {
		err = Check(c, s)
	}
	if err != nil {
		return config.Config{}, nil, err
	}
	return c, config.Warnings(c, s), nil
}
