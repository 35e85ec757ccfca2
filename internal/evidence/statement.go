package evidence

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The types by which others' tools know what is signed.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://github.com/holdfast-dr/holdfast/evidence/v1"
	PayloadType   = "application/vnd.in-toto+json"
)

// Kind says what was executed.
type Kind string

// The kinds of what is recorded.
const (
	Snapshot    Kind = "snapshot"
	Recovery    Kind = "recovery" // also a restore of parts, or into a directory that nobody has started yet
	RestoreTest Kind = "restore-test"
	Check       Kind = "check"
	Repair      Kind = "repair"
	Forget      Kind = "forget"     // snapshots ceased to exist
	RemoveLog   Kind = "remove-log" // parts of the change log that no snapshot needed
	Collect     Kind = "collect"    // space was given back
	Lock        Kind = "lock"       // retention was renewed
	Keys        Kind = "keys"       // who can open the repository was changed
	Residency   Kind = "residency-override"
	Promotion   Kind = "promotion"
)

// Outcome says how it ended.
type Outcome string

// The outcomes. Partial is of what was done with something missing, which Reason tells.
const (
	Succeeded Outcome = "succeeded"
	Partial   Outcome = "partial"
	Failed    Outcome = "failed"
)

// Statement is what one record says. Texts are for people; a reader must not depend on their words.
type Statement struct {
	Subjects []Subject `json:"-"` // what it is about; never empty

	ID         string    `json:"id"` // 32 hex, drawn by Record
	Kind       Kind      `json:"kind"`
	Repository string    `json:"repository"`       // its ID; set by Record
	System     string    `json:"system,omitempty"` // empty: the repository as a whole
	Outcome    Outcome   `json:"outcome"`
	Reason     string    `json:"reason,omitempty"` // why it did not succeed
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished"`
	By         By        `json:"by"`             // set by Record
	Site       string    `json:"site,omitempty"` // of the replica that was worked with
	Facts      []Fact    `json:"facts,omitempty"`
	Figures    []Figure  `json:"figures,omitempty"`
	Phases     []Phase   `json:"phases,omitempty"`
	Covered    []string  `json:"covered,omitempty"`
	// NotCovered says what this does not prove. It is never empty: nothing covers everything.
	NotCovered []string `json:"notCovered"`
	Refs       []Ref    `json:"refs,omitempty"`
	Seen       []Seen   `json:"seen,omitempty"` // set by Record
}

// Subject is a thing with the digest by which it is known again: of a snapshot that of its signed manifest.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // algorithm to hexadecimal digits
}

// SHA256 returns a subject with a digest that was computed.
func SHA256(name string, digest [32]byte) Subject {
	return Subject{name, map[string]string{"sha256": hex.EncodeToString(digest[:])}}
}

// By says who has done it.
type By struct {
	Signer  string `json:"signer"` // ID of the key
	Host    string `json:"host,omitempty"`
	User    string `json:"user,omitempty"`    // of the operating system
	Program string `json:"program,omitempty"` // "holdfast agent", "holdfast restore"
}

// Fact is something that was asked for, chosen or found.
type Fact struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Figure is something that was measured or counted.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // "s", "bytes", "1"
}

// Phase is a part of what took time.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Ref is another record: a restore test's, of the snapshot's.
type Ref struct {
	Log   string `json:"log"` // its origin
	Index uint64 `json:"index"`
	Hash  string `json:"hash"` // of the envelope as a leaf, 64 hex
}

// Seen is how long another log was: whoever removes its end must remove this, too.
type Seen struct {
	Log  string `json:"log"` // its origin
	Size uint64 `json:"size"`
	Root string `json:"root"` // 64 hex
}

// Took appends the figure of how long all of it took, in seconds.
func (s *Statement) Took() {
	s.Figures = append(s.Figures, Figure{"duration", s.Finished.Sub(s.Started).Seconds(), "s"})
}

// inToto is the statement as it is signed.
type inToto struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Statement `json:"predicate"`
}

// Bounds of a statement, in bytes and elements, which keep it well below repo.MaxEvidence: a record is for people, and is stored for ever.
const (
	maxText     = 1000
	maxList     = 100
	maxSubjects = 1000
)

// check returns what is wrong with a statement.
func (s *Statement) check() error {
	switch {
	case len(s.Subjects) == 0:
		return errors.New("it has no subject")
	case s.Kind == "" || strings.Trim(string(s.Kind), "abcdefghijklmnopqrstuvwxyz-") != "":
		return fmt.Errorf("%q is no kind", s.Kind)
	case s.Outcome != Succeeded && s.Outcome != Partial && s.Outcome != Failed:
		return fmt.Errorf("%q is no outcome", s.Outcome)
	case s.Outcome != Succeeded && s.Reason == "":
		return errors.New("it does not say why it did not succeed")
	case len(s.NotCovered) == 0:
		return errors.New("it does not say what it does not cover")
	case s.Started.IsZero() || s.Finished.Before(s.Started):
		return errors.New("its times are not in order")
	}
	for _, x := range s.Subjects {
		if x.Name == "" || len(x.Digest) == 0 {
			return errors.New("a subject has no name or no digest")
		}
	}
	return nil
}

// bounded cuts what is too long, and says so: a failure must not keep itself from being recorded.
func (s *Statement) bounded() {
	s.Reason = cut(s.Reason)
	for _, list := range []*[]string{&s.Covered, &s.NotCovered} {
		*list = shorten(*list)
		for i, text := range *list {
			(*list)[i] = cut(text)
		}
	}
	for i := range s.Facts {
		s.Facts[i].Text = cut(s.Facts[i].Text)
	}
	if more := len(s.Subjects) - maxSubjects; more > 0 {
		s.Subjects = s.Subjects[:maxSubjects]
		s.NotCovered = append(s.NotCovered, fmt.Sprintf("%d more subjects, for which there is no room here", more))
	}
	s.Facts, s.Figures, s.Phases = shorten(s.Facts), shorten(s.Figures), shorten(s.Phases)
}

func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + " … (cut)"
}

func shorten[T any](list []T) []T { return append([]T(nil), list[:min(len(list), maxList)]...) }

func (s *Statement) marshal() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(inToto{StatementType, s.Subjects, PredicateType, *s})
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// parseStatement reads what marshal wrote. Fields that it does not know are of a newer writer, and are ignored.
func parseStatement(payload []byte) (Statement, error) {
	var t inToto
	if err := json.Unmarshal(payload, &t); err != nil {
		return Statement{}, errors.New("the statement's JSON cannot be read")
	}
	if t.Type != StatementType || t.PredicateType != PredicateType {
		return Statement{}, fmt.Errorf("it is a %q with a predicate of %q, of which nothing is known here", t.Type, t.PredicateType)
	}
	s := t.Predicate
	s.Subjects = t.Subject
	if err := s.check(); err != nil {
		return s, fmt.Errorf("the statement is wrong: %w", err)
	}
	return s, nil
}
