package dr

import (
	"fmt"
	"time"
)

// SystemName names what is protected. It has 1 to 63 characters of [a-z0-9-] and begins with a letter or a
// digit, so that it can stand in a file name, a metric's label and a replication slot without being quoted.
// A value that did not come from ParseSystemName is unchecked.
type SystemName string

// ParseSystemName returns s as a name, or an error that says which character is wrong.
func ParseSystemName(s string) (SystemName, error) {
	if err := CheckName(s); err != nil {
		return "", err
	}
	return SystemName(s), nil
}

// CheckName returns an error where s is no name in the sense of SystemName. Sites, repositories, policies and
// residency groups are named by the same rule.
func CheckName(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("a name has 1 to 63 characters, this one has %d", len(s))
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return fmt.Errorf("a name is made of [a-z0-9-] and begins with a letter or a digit; %q at character %d is neither", rune(c), i+1)
		}
	}
	return nil
}

// Site is a place that can be lost as a whole: a region, a data centre.
type Site struct {
	Name         string
	Jurisdiction string // whose law holds there, in the operator's own words: "EU", "CH"; may be empty
}

// Position is a place in a system's change log, for those who do not know its engine. Positions of one
// timeline are ordered as the changes are; a PostgreSQL LSN is one.
type Position uint64

// Objective is what a system must meet after a disaster. A zero duration sets no objective.
type Objective struct {
	RPO time.Duration // recovery point objective: the longest span of changes that may be lost
	RTO time.Duration // recovery time objective: the longest time until the system answers again
	MTD time.Duration // maximum tolerable downtime: beyond it the business itself is in danger
}
