package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Verify says how the agent tests that a system can be recovered.
type Verify struct {
	Schedule dr.Schedule
	Depth    VerifyDepth
	At       VerifyAt
	Way      VerifyWay
	Sample   Fraction      // of the content that the depths objects and pages read
	Sandbox  string        // directory of the sandboxes; empty: that of temporary files
	Memory   dr.Bytes      // of a sandbox's server; 0: no bound
	Timeout  time.Duration // of each statement
}

// VerifyDepth is how deep a test goes.
type VerifyDepth string

// The depths; see verify.Depth.
const (
	VerifyNone    VerifyDepth = "none"
	VerifyObjects VerifyDepth = "objects"
	VerifyPages   VerifyDepth = "pages"
	VerifyBoot    VerifyDepth = "boot"
	VerifyCheck   VerifyDepth = "check"
	VerifyQuery   VerifyDepth = "query"
)

// VerifyAt is which moment is tested.
type VerifyAt string

// The moments.
const (
	VerifyLatest   VerifyAt = "latest"
	VerifyRandom   VerifyAt = "random"
	VerifyRecorded VerifyAt = "recorded"
)

// VerifyWay is how the files come into a sandbox.
type VerifyWay string

// The ways.
const (
	VerifyRestore VerifyWay = "restore"
	VerifyMount   VerifyWay = "mount"
)

// SystemVerify is what tests need to know of one system.
type SystemVerify struct {
	Preload    []string // libraries that the server of a test loads at its start
	Superuser  string   // of the cluster
	Assertions []Assertion
}

// Assertion is what a user says of his data. One of SQL and Table is set.
type Assertion struct {
	Name     string
	Database string
	SQL      string // a statement that returns one value
	Table    string // SCHEMA.TABLE whose rows are counted and digested

	Equals       string        // the value, as text; empty: nothing is said
	AtLeast      string        // a number
	AtMost       string        // a number
	NewerThan    time.Duration // the value is a time, and this old at most at the moment that is tested
	EqualsSource bool          // the value is that which the source had
}

var verify = object[Verify]{
	key("schedule", schedule, func(v *Verify) *dr.Schedule { return &v.Schedule },
		"When a restore test is due.").or("weekly"),
	key("depth", oneOf("depth", VerifyNone, VerifyObjects, VerifyPages, VerifyBoot, VerifyCheck, VerifyQuery), func(v *Verify) *VerifyDepth { return &v.Depth },
		"How deep it goes, each depth with those before it: objects and pages read back what is stored; boot starts a server on it in a sandbox, which takes as much room as the system; check runs amcheck; query the system's assertions. none: no tests.").or("pages"),
	key("at", oneOf("moment", VerifyLatest, VerifyRandom, VerifyRecorded), func(v *Verify) *VerifyAt { return &v.At },
		"Which moment is tested: latest; random, of all that can be recovered; or recorded, the newest for which figures of the source were recorded.").or("latest"),
	key("way", oneOf("way", VerifyRestore, VerifyMount), func(v *Verify) *VerifyWay { return &v.Way },
		"How the files come into the sandbox: restore writes all of them; mount fetches what the server asks for, which takes root and /dev/fuse.").or("restore"),
	key("sample", fraction, func(v *Verify) *Fraction { return &v.Sample },
		"How much of the snapshot's content is read where nothing deeper than pages is asked for, or the way is mount, chosen anew each time.").or(`"10%"`),
	key("sandbox", absolutePath, func(v *Verify) *string { return &v.Sandbox },
		"Directory in which sandboxes are made. Left out, the directory of temporary files."),
	key("memory", optional(bytesOf(64<<20, 1<<50)), func(v *Verify) *dr.Bytes { return &v.Memory },
		"The most that a sandbox's server may take, where this process may make control groups. Left out, there is no bound."),
	key("timeout", duration(time.Second, 24*time.Hour), func(v *Verify) *time.Duration { return &v.Timeout },
		"How long a statement of a test may take.").or("1h"),
}

var systemVerify = object[SystemVerify]{
	key("preload", list[string]{library}, func(s *SystemVerify) *[]string { return &s.Preload },
		"Libraries that the server of a test loads at its start (shared_preload_libraries), such as timescaledb. Without any it loads none: what acts on its own stays out."),
	key("superuser", word, func(s *SystemVerify) *string { return &s.Superuser },
		"Name of the cluster's superuser.").or("postgres"),
	key("assertions", list[Assertion]{assertion}, func(s *SystemVerify) *[]Assertion { return &s.Assertions },
		"What has to hold of the data, for tests of the depth query."),
}

var assertion = object[Assertion]{
	key("name", name, func(a *Assertion) *string { return &a.Name },
		"What it is called in results.").must(),
	key("database", word, func(a *Assertion) *string { return &a.Database },
		"The database that is asked.").or("postgres"),
	key("sql", statement, func(a *Assertion) *string { return &a.SQL },
		"A statement that returns one row with one value. It runs read only."),
	key("table", word, func(a *Assertion) *string { return &a.Table },
		"Instead of sql: SCHEMA.TABLE, whose value is the number of its rows and a digest of them."),
	key("equals", anyValue, func(a *Assertion) *string { return &a.Equals },
		"The value, as PostgreSQL prints it."),
	key("at-least", number, func(a *Assertion) *string { return &a.AtLeast },
		"The value is a number, and not smaller."),
	key("at-most", number, func(a *Assertion) *string { return &a.AtMost },
		"The value is a number, and not larger."),
	key("newer-than", objective(), func(a *Assertion) *time.Duration { return &a.NewerThan },
		"The value is a time, and at the moment that is tested not older than this."),
	key("equals-source", boolean, func(a *Assertion) *bool { return &a.EqualsSource },
		"The value is the one that the source had: the agent asks the source after each snapshot, and records the answer with its position in the log. Such a moment is tested with at: recorded.").or("false"),
}

// library is a name that the server looks for among its own.
var library = textOf("name of a library", "such as timescaledb", func(s string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9_.-]{1,63}$`).MatchString(s) {
		return errors.New("it is looked for among the server's own libraries: a name of [A-Za-z0-9_.-], without a directory")
	}
	return nil
})

var statement = textOf("statement", "of SQL", func(s string) error {
	if strings.TrimSpace(s) == "" || len(s) > 64<<10 || strings.ContainsRune(s, 0) {
		return errors.New("it has 1 byte to 64 KiB")
	}
	return nil
})

// anyValue is whatever YAML takes it for.
var anyValue = scalar[string]{
	noun: "value", like: `such as 7 or "shipped"`, tags: []string{"!!str", "!!int", "!!float", "!!bool"},
	parse: func(s string) (string, error) { return s, nil },
	print: func(s string) string { return s },
	json:  jsonSchema{"type": []string{"string", "number", "boolean"}},
}

var number = scalar[string]{
	noun: "number", like: "such as 1000", tags: []string{"!!int", "!!float"},
	parse: func(s string) (string, error) {
		if _, err := strconv.ParseFloat(s, 64); err != nil {
			return "", fmt.Errorf("%s is no number", quote(s))
		}
		return s, nil
	},
	print: func(s string) string { return s },
	json:  jsonSchema{"type": "number"},
}

// checkAssertions refuses what says nothing, or two things.
func (c *Config) checkAssertions(r *report, s System) {
	path := "systems." + string(s.Name) + ".verify.assertions"
	seen := map[string]bool{}
	for i, a := range s.Verify.Assertions {
		at, what := index(path, i), "assertion "+quote(a.Name)
		bounds := a.AtLeast != "" || a.AtMost != ""
		kinds := 0
		for _, said := range []bool{a.Equals != "", bounds, a.NewerThan > 0, a.EqualsSource} {
			if said {
				kinds++
			}
		}
		switch {
		case seen[a.Name]:
			r.addAt(at+".name", "two assertions of system "+quote(string(s.Name))+" are called "+quote(a.Name), "a result names them", "give one of them another name")
		case (a.SQL == "") == (a.Table == ""):
			r.addAt(at, what+" asks for nothing, or for two things", "it needs sql or table, and not both", "write sql: SELECT …, or table: public.orders")
		case kinds != 1:
			r.addAt(at, what+" expects nothing, or several things", "it needs one of equals, at-least and at-most, newer-than, equals-source", "write one of them; for several write several assertions")
		case a.Table != "" && !a.EqualsSource && a.Equals == "":
			r.addAt(at, what+" compares a digest with a number or a time", "the value of a table is the number of its rows and a digest", "write equals-source: true, or sql: SELECT count(*) FROM …")
		}
		seen[a.Name] = true
	}
}
