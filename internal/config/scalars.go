package config

import (
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// scalar is a value that is one word or line.
type scalar[V any] struct {
	noun  string   // "duration": what a wrong value is not
	like  string   // "such as 1m or 90s"
	tags  []string // YAML's types that may stand there; nil for text only
	parse func(string) (V, error)
	print func(V) string
	json  jsonSchema
}

func (s scalar[V]) decode(r *report, n *yaml.Node, path string, into *V) {
	want := strings.TrimSpace(article(s.noun) + " " + s.like)
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.wrongType(n, path, want)
		return
	}
	if !slices.Contains(s.tags, n.Tag) && (n.Tag != "!!str" || len(s.tags) > 0) {
		r.wrongType(n, path, want)
		return
	}
	v, err := s.parse(n.Value)
	if err != nil {
		r.add(placeOf(n), path+" is no "+s.noun, err.Error(), dr.Advice(err))
		return
	}
	*into = v
}

func (s scalar[V]) encode(v V) *yaml.Node {
	n := text(s.print(v))
	if len(s.tags) > 0 {
		n.Tag = "" // a number or a truth value is printed as what it is
	}
	return n
}

func (s scalar[V]) schema() jsonSchema { return s.json }

func article(noun string) string {
	if strings.ContainsRune("aeio", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

// amount are the types of a number with a unit; a zero needs none.
var amount = []string{"!!str", "!!int", "!!float"}

// textOf is text with a rule.
func textOf(noun, like string, check func(string) error) scalar[string] {
	return scalar[string]{
		noun: noun, like: like,
		parse: func(s string) (string, error) { return s, check(s) },
		print: func(s string) string { return s },
		json:  jsonSchema{"type": "string"},
	}
}

var (
	name = scalar[string]{
		noun: "name", like: "of [a-z0-9-]",
		parse: func(s string) (string, error) { return s, dr.CheckName(s) },
		print: func(s string) string { return s },
		json:  jsonSchema{"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
	}
	absolutePath = textOf("absolute path", "such as /var/lib/holdfast", checkPath)
	word         = textOf("text", "on one line", checkLine)
	variable     = textOf("name of an environment variable", "such as HOLDFAST_PASSPHRASE", checkVariable)
	address      = textOf("address", "such as 127.0.0.1:9847", checkAddress)
	slotName     = textOf("name of a replication slot", "of [a-z0-9_]", checkSlot)
)

func checkPath(s string) error {
	if !path.IsAbs(s) || strings.ContainsAny(s, "\x00\n") {
		return fmt.Errorf("%s does not begin with /, and the agent may be started in any directory", quote(s))
	}
	return nil
}

func checkLine(s string) error {
	if s == "" || len(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("it has 1 to 200 bytes and no control characters")
	}
	return nil
}

func checkVariable(s string) error {
	if !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(s) {
		return errors.New("it names a variable, it is not the secret itself")
	}
	return nil
}

func checkAddress(s string) error {
	host, port, ok := strings.Cut(s, ":")
	if i := strings.LastIndexByte(s, ':'); strings.HasPrefix(s, "[") && i > 0 && s[i-1] == ']' {
		host, port, ok = s[1:i-1], s[i+1:], true
	}
	n, err := strconv.Atoi(port)
	if !ok || err != nil || n < 0 || n > 65535 || strings.ContainsAny(host, " /@") {
		return fmt.Errorf("%s is not host:port", quote(s))
	}
	return nil
}

func checkSlot(s string) error {
	// PostgreSQL, replication/slot.c, ReplicationSlotValidateName: NAMEDATALEN-1 bytes of these characters.
	if !regexp.MustCompile(`^[a-z0-9_]{1,63}$`).MatchString(s) {
		return fmt.Errorf("%s: PostgreSQL allows 1 to 63 characters of [a-z0-9_]", quote(s))
	}
	return nil
}

var boolean = scalar[bool]{
	noun: "truth value", like: "(true or false)", tags: []string{"!!bool"},
	parse: func(s string) (bool, error) {
		if s == "true" || s == "false" {
			return s == "true", nil
		}
		return false, fmt.Errorf("%s is neither true nor false", quote(s))
	},
	print: strconv.FormatBool,
	json:  jsonSchema{"type": "boolean"},
}

// formatVersion is the number of this file's format.
var formatVersion = scalar[int]{
	noun: "version that this holdfast reads", like: "(1)", tags: []string{"!!int"},
	parse: func(s string) (int, error) {
		if s != "1" {
			return 0, fmt.Errorf("%s is not 1: another version of holdfast may read it", quote(s))
		}
		return 1, nil
	},
	print: strconv.Itoa,
	json:  jsonSchema{"const": 1},
}

// wholeNumber is an integer between two limits.
func wholeNumber(least, most int) scalar[int] {
	return scalar[int]{
		noun: "whole number", like: fmt.Sprintf("from %d to %d", least, most), tags: []string{"!!int"},
		parse: func(s string) (int, error) {
			n, err := strconv.Atoi(s)
			if err != nil || n < least || n > most {
				return 0, fmt.Errorf("%s is not a number from %d to %d", quote(s), least, most)
			}
			return n, nil
		},
		print: strconv.Itoa,
		json:  jsonSchema{"type": "integer", "minimum": least, "maximum": most},
	}
}

// duration is a span of time between two limits.
func duration(least, most time.Duration) scalar[time.Duration] {
	return scalar[time.Duration]{
		noun: "duration", like: "such as 1m or 36h", tags: amount,
		parse: func(s string) (time.Duration, error) {
			d, err := parseDuration(s)
			if err == nil && (d < least || d > most) {
				err = fmt.Errorf("%s is not between %s and %s", quote(s), printDuration(least), printDuration(most))
			}
			return d, err
		},
		print: printDuration,
		json:  jsonSchema{"type": []string{"string", "integer"}, "examples": []string{"1s", "2m", "36h", "7d"}},
	}
}

// lockMode is a mode that may be left out.
func lockMode() scalar[LockMode] { return oneOf("mode", LockGovernance, LockCompliance) }

// optional may be left out, which is printed as nothing.
func optional[V comparable](s scalar[V]) scalar[V] {
	print := s.print
	s.print = func(v V) string {
		if v == *new(V) {
			return ""
		}
		return print(v)
	}
	return s
}

func objective() scalar[time.Duration] { return optional(duration(time.Second, 366*24*time.Hour)) }

// window is a long duration.
func window() scalar[time.Duration] { return optional(duration(time.Hour, 10*366*24*time.Hour)) }

// parseDuration reads what time.ParseDuration does, and whole days and weeks: "7d", "2w".
func parseDuration(s string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			if n, err := strconv.Atoi(number); err == nil && n >= 0 && n < 100_000 {
				return time.Duration(n) * length, nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s: write a number and a unit, such as 90s, 15m, 36h or 7d", quote(s))
	}
	return d, nil
}

// printDuration leaves out what is zero: "2m", not "2m0s".
func printDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// bytesOf is an amount of data between two limits.
func bytesOf(least, most dr.Bytes) scalar[dr.Bytes] {
	return scalar[dr.Bytes]{
		noun: "amount of bytes", like: "such as 512MiB or 40GB", tags: amount,
		parse: func(s string) (dr.Bytes, error) {
			b, err := dr.ParseBytes(s)
			if err == nil && (b < least || b > most) {
				err = fmt.Errorf("%s is not between %v and %v", quote(s), least, most)
			}
			return b, err
		},
		print: printBytes,
		json:  jsonSchema{"type": []string{"string", "integer"}, "examples": []string{"512MiB", "40GB"}},
	}
}

// printBytes returns the shortest form that is read back as exactly b.
func printBytes(b dr.Bytes) string {
	best := strconv.FormatInt(int64(b), 10)
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "kB", "MB", "GB", "TB", "PB"} {
		scale := dr.Bytes(1) << (10 * (i + 1))
		if i >= 5 {
			scale = dr.Bytes(math.Pow10(3 * (i - 4)))
		}
		if s := fmt.Sprintf("%d%s", b/scale, unit); b != 0 && b%scale == 0 && len(s) <= len(best) {
			best = s
		}
	}
	return best
}

var fraction = scalar[Fraction]{
	noun: "percentage", like: `such as "1%"`,
	parse: func(s string) (Fraction, error) {
		number, ok := strings.CutSuffix(s, "%")
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if !ok || err != nil || !(f > 0 && f <= 100) {
			return 0, fmt.Errorf(`%s: write more than 0 and at most 100, and the sign: "1%%"`, quote(s))
		}
		return Fraction(f / 100), nil
	},
	print: Fraction.String,
	json:  jsonSchema{"type": "string", "pattern": `^[0-9.]+ *%$`},
}

var share = scalar[Share]{
	noun: "percentage", like: `such as "30%"`,
	parse: func(s string) (Share, error) {
		number, ok := strings.CutSuffix(s, "%")
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if !ok || err != nil || !(f >= 0 && f <= 1000) {
			return 0, fmt.Errorf(`%s: write 0 to 1000, and the sign: "30%%"`, quote(s))
		}
		return Share(f / 100), nil
	},
	print: func(s Share) string { return Fraction(s).String() },
	json:  jsonSchema{"type": "string", "pattern": `^[0-9.]+ *%$`},
}

// pace is a pace that may be left out.
var pace = scalar[dr.Pace]{
	noun: "pace", like: "such as 5%/day, 50GiB/day, 20MiB/s or off",
	parse: dr.ParsePace,
	print: dr.Pace.String,
	json:  jsonSchema{"type": "string", "examples": []string{"5%/day", "50GiB/day", "20MiB/s", "off"}},
}

// String returns f as a percentage.
func (f Fraction) String() string { return strconv.FormatFloat(float64(f)*100, 'g', 12, 64) + "%" }

var schedule = scalar[dr.Schedule]{
	noun: "schedule", like: `such as hourly, "every 15m" or "30 2 * * *"`,
	parse: dr.ParseSchedule,
	print: dr.Schedule.String,
	json:  jsonSchema{"type": "string", "examples": []string{"hourly", "daily", "weekly", "every 15m", "30 2 * * *"}},
}

var windowOfDay = scalar[dr.Window]{
	noun: "window", like: `such as "22:00-06:00"`,
	parse: dr.ParseWindow,
	print: dr.Window.String,
	json:  jsonSchema{"type": "string", "pattern": "^[0-9]{2}:[0-9]{2} *- *[0-9]{2}:[0-9]{2}$"},
}

var location = scalar[Location]{
	noun: "place for a replica", like: `such as "file:///var/lib/holdfast/repository", "s3://bucket/prefix", "gs://bucket/prefix", "azblob://account/container/prefix" or "sftp://user@host/directory"`,
	parse: parseLocation,
	print: func(l Location) string { return string(l) },
	json:  jsonSchema{"type": "string", "pattern": "^(file|s3|gs|azblob|sftp)://"},
}

var connection = scalar[Connection]{
	noun: "acceptable connection string", like: `such as "host=/var/run/postgresql user=holdfast dbname=postgres"`,
	parse: func(s string) (Connection, error) {
		if s == "" {
			return "", errors.New("it is empty")
		}
		return ParseConnection(s)
	},
	print: Connection.String,
	json:  jsonSchema{"type": "string"},
}

// oneOf is one of several words.
func oneOf[W ~string](noun string, words ...W) scalar[W] {
	var known []string
	for _, w := range words {
		known = append(known, string(w))
	}
	return scalar[W]{
		noun: noun, like: "(" + strings.Join(known, " or ") + ")",
		parse: func(s string) (W, error) {
			if slices.Contains(known, s) {
				return W(s), nil
			}
			err := fmt.Errorf("%s is not one of %s", quote(s), strings.Join(known, ", "))
			if hint := suggestion(s, known, ""); hint != "" {
				return "", dr.Advise(err, hint)
			}
			return "", err
		},
		print: func(w W) string { return string(w) },
		json:  jsonSchema{"enum": known},
	}
}
