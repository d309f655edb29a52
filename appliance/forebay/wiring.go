package main

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"

	"forebay/appliance"
)

func buildAppliance(o appliance.Options) (service, error) {
	var err error
	o.Listeners, err = inheritedListeners()
	if err != nil {
		return nil, err
	}
	s, err := appliance.New(o)
	if err != nil {
		return nil, err // not s: a nil *Appliance is no nil service
	}
	return s, nil
}

// inheritedListeners are the sockets that systemd passed on, by the names in
// their units (FileDescriptorName=); none without socket activation.
func inheritedListeners() (map[string]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("take over the sockets of the service manager: %w", err)
	}
	listeners := map[string]net.Listener{}
	for name, ls := range named {
		switch name {
		case "api", "ops", "admin":
		default:
			return nil, fmt.Errorf("systemd passes a socket named %q: set FileDescriptorName= of the socket unit to api, ops or admin", name)
		}
		if len(ls) != 1 {
			return nil, fmt.Errorf("systemd passes %d sockets named %q, want one: put one ListenStream= into each socket unit", len(ls), name)
		}
		listeners[name] = ls[0]
	}
	return listeners, nil
}
