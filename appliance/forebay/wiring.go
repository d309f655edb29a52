package main

import (
	"log/slog"

	"forebay/appliance"
	"forebay/appliance/config"
)

func buildAppliance(c config.Config, version string, logger *slog.Logger) (service, error) {
	s, err := appliance.New(appliance.Options{Config: c, Version: version, Logger: logger})
	if err != nil {
		return nil, err // not s: a nil *Appliance is no nil service
	}
	return s, nil
}
