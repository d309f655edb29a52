package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes.
type Size int64

// The units of sizes.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeUnits = []struct {
	suffix string
	factor Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

// String writes the size in the largest unit that divides it: "256KiB".
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.factor == 0 {
			return strconv.FormatInt(int64(s/u.factor), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var errSize = errors.New("not a size; write bytes or a whole number of KiB, MiB, GiB or TiB, for example 256KiB")

// ParseSize reads a number of bytes, plain or with KiB, MiB, GiB or TiB.
func ParseSize(text string) (Size, error) {
	factor, digits := Size(1), text
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			factor, digits = u.factor, strings.TrimSuffix(rest, " ")
			break
		}
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, errSize
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/int64(factor) {
		return 0, errors.New("too large a size")
	}
	return Size(n) * factor, nil
}

var errDuration = errors.New("not a duration; write for example 100ms, 30s, 24h, 90d or 00:01:30.500")

const day = 24 * time.Hour

// ParseDuration reads a duration as Go writes it (100ms, 1h30m), with days (1d,
// 1d12h), or as hh:mm:ss with an optional fraction. It is never negative.
func ParseDuration(text string) (time.Duration, error) {
	if strings.Contains(text, ":") {
		return parseClock(text)
	}
	days, rest, found := strings.Cut(text, "d")
	if !found {
		days, rest = "", text
	}
	var total time.Duration
	if found {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || strings.HasPrefix(days, "+") {
			return 0, errDuration
		}
		total = time.Duration(n) * day
	}
	if rest != "" || !found {
		d, err := time.ParseDuration(rest)
		if err != nil && strings.Trim(rest, "0123456789.") == "" && rest != "" {
			return 0, fmt.Errorf("without a unit; write for example %ss", rest)
		}
		if err != nil {
			return 0, errDuration
		}
		if d < 0 || found && strings.ContainsAny(rest[:1], "+-") {
			return 0, errors.New("negative; write a duration of 0 or more")
		}
		total += d
	}
	if total < 0 {
		return 0, errDuration
	}
	return total, nil
}

// parseClock reads hh:mm:ss and hh:mm:ss.fff. Hours may have up to five digits.
func parseClock(text string) (time.Duration, error) {
	wrong := errors.New("not a duration; hh:mm:ss has three parts, for example 00:01:30 or 00:00:00.100")
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return 0, wrong
	}
	seconds, fraction, dotted := strings.Cut(parts[2], ".")
	if len(parts[0]) < 1 || len(parts[0]) > 5 || len(parts[1]) != 2 || len(seconds) != 2 ||
		dotted && (fraction == "" || len(fraction) > 9) || strings.Trim(parts[0]+parts[1]+seconds+fraction, "0123456789") != "" {
		return 0, wrong
	}
	h, _ := strconv.Atoi(parts[0])
	m, _ := strconv.Atoi(parts[1])
	s, _ := strconv.Atoi(seconds)
	ns, _ := strconv.Atoi((fraction + "000000000")[:9])
	if m > 59 || s > 59 {
		return 0, errors.New("not a duration; minutes and seconds go to 59")
	}
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(ns), nil
}

// FormatDuration writes what ParseDuration reads, without zero parts: "90d",
// "1h30m", "100ms".
func FormatDuration(d time.Duration) string {
	if d >= day && d%day == 0 && d != day {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
