// Package config is the appliance's configuration: its schema, its defaults,
// and the strict way in.
//
// A configuration is put together from layers, each one over the one before:
//
//	defaults
//	the file            --config, else FOREBAY_CONFIG, else /etc/forebay/forebay.yaml
//	conf.d/*.yaml       beside the file, in the order of their names
//	forebay.ENV.yaml    beside the file, ENV from FOREBAY_ENVIRONMENT or `environment:`
//	environment         FOREBAY_SECTION_KEY, for example FOREBAY_BUFFER_CAPACITY
//
// An environment that is not the default's and has no overlay is told: see
// loader.overlay.
//
// Nothing is guessed. A key that the schema does not know, a value of the wrong
// kind, a number out of its range, two values that contradict each other: each
// is a Problem with the file and line it stands in and what to write instead,
// and all of them are reported at once, as Problems. A null (`key:` or `key: ~`)
// leaves a key at the layer below.
//
// Secrets are never written into the configuration. They come from files named
// by keys that end in `_file`; ReadSecrets reads them. Values that may hold a
// secret have types of their own (Secret, DSN) which no format verb, logger or
// encoder can print.
//
// A Config is a value: Load builds a new one and touches no other. Who applies
// a changed configuration, and how it is taken back, is not decided here.
package config
