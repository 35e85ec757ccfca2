package evidence

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// FindingKind says what is wrong.
type FindingKind string

// The kinds of findings.
const (
	Damaged   FindingKind = "damaged"   // what is stored is not what its signer signed
	Missing   FindingKind = "missing"   // there are later records, and not this one
	Truncated FindingKind = "truncated" // somebody has seen more records than there are
	Rewritten FindingKind = "rewritten" // the records are not those of which somebody has seen, or signed, the root
	Forked    FindingKind = "forked"    // one number has two records
	Unproven  FindingKind = "unproven"  // the signer's key is not there
	Replaced  FindingKind = "replaced"  // what a record is about is there, and is another
)

// Finding is one thing that is wrong with the evidence.
type Finding struct {
	Kind   FindingKind `json:"kind"`
	Log    string      `json:"log"` // its origin
	System string      `json:"system,omitempty"`
	Signer string      `json:"signer"`
	Index  *uint64     `json:"index,omitempty"`
	Site   string      `json:"site,omitempty"` // where that is so; empty: everywhere
	Text   string      `json:"text"`
}

func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", strings.ToUpper(string(f.Kind)))
	if f.Index != nil {
		fmt.Fprintf(&b, "record %d of ", *f.Index)
	}
	fmt.Fprintf(&b, "the log of signer %.8s", f.Signer)
	b.WriteString(about(f.System))
	if f.Site != "" {
		fmt.Fprintf(&b, " at site %s", f.Site)
	}
	return b.String() + ": " + f.Text
}

func (l *Log) finding(kind FindingKind, index *uint64, site, format string, args ...any) Finding {
	return Finding{kind, l.Origin, l.System, l.EvidenceLog.Signer, index, site, fmt.Sprintf(format, args...)}
}

// Sighting is that somebody has seen a log at a length.
type Sighting struct {
	Seen
	Who string // "snapshot …", "record …", "the checkpoint in FILE"

	signed []byte // as a note; nil: whoever says it has proven it otherwise
}

// Verdict is what verifying one log has told.
type Verdict struct {
	Log        string    `json:"log"`
	System     string    `json:"system,omitempty"`
	Signer     string    `json:"signer"`
	Host       string    `json:"host,omitempty"`
	Since      time.Time `json:"since"` // when the signer was registered
	Size       uint64    `json:"size"`
	Root       string    `json:"root"`
	Checkpoint string    `json:"checkpoint"` // the newest, signed
	Sightings  int       `json:"sightings"`  // by others, with which it agrees
}

// Verified is what Verify has told.
type Verified struct {
	Repository string    `json:"repository"`
	Logs       []Verdict `json:"logs"`
	Findings   []Finding `json:"findings"`
	Notes      []string  `json:"notes,omitempty"`
}

// Verify computes the trees of all logs, and compares them with what was signed and with what was seen of them: by the records of
// other logs, and by whom seen tells of. Signatures were verified by reading.
func (b *Book) Verify(seen []Sighting) Verified {
	out := Verified{Repository: b.Repository, Logs: []Verdict{}, Findings: append([]Finding{}, b.Findings...), Notes: b.Notes}
	for _, l := range b.Logs {
		for _, r := range l.Records {
			for _, s := range r.Statement.Seen {
				seen = append(seen, Sighting{Seen: s, Who: "record " + l.Name(r)})
			}
		}
	}
	known := map[string]bool{}
	for _, l := range b.Logs {
		known[l.Origin] = true
		v, findings := l.verify(seen)
		out.Logs, out.Findings = append(out.Logs, v), append(out.Findings, findings...)
	}
	for _, s := range seen {
		if known[s.Log] {
			continue
		}
		repository, l, ok := parseOrigin(s.Log)
		if !ok || repository != b.Repository || !b.reads(l.Scope) {
			continue // of a log that was not to be read
		}
		known[s.Log] = true
		gone := &Log{EvidenceLog: l, Origin: s.Log}
		out.Findings = append(out.Findings, gone.finding(Truncated, nil, "", "the whole log is missing; %s has seen %d records", s.Who, s.Size))
	}
	return out
}

// reads tells whether logs of a scope are in the book.
func (b *Book) reads(scope repo.EvidenceScope) bool {
	if b.scopes == nil {
		return true
	}
	return b.scopes[scope]
}

// verify judges one log.
func (l *Log) verify(seen []Sighting) (Verdict, []Finding) {
	var found []Finding
	roots := map[uint64]tlog.Hash{}
	next, tree, whole := uint64(0), frontier(nil), true
	for _, r := range l.Records {
		if r.Index > next {
			index := next
			text := "it is in no replica that was read, and later ones are"
			if more := r.Index - next; more > 1 {
				text = fmt.Sprintf("%d records from this one on are in no replica that was read, and later ones are", more)
			}
			found = append(found, l.finding(Missing, &index, "", "%s", text))
			whole = false
		}
		if whole {
			tree = tree.add(r.Index, r.Hash)
			if tree.root() != r.proven.Root {
				index := r.Index
				found = append(found, l.finding(Rewritten, &index, "", "the tree of the records up to it has another root than the one that was signed with it"))
			}
		}
		// Behind a gap the entry's own frontier, which its signed root proves, stands for what is missing.
		whole, tree, next = true, r.frontier, r.Index+1
		roots[next] = r.proven.Root
	}
	v := Verdict{Log: l.Origin, System: l.System, Signer: l.EvidenceLog.Signer, Host: l.Signer.Host, Since: l.Signer.Added, Size: l.Size()}
	if n := len(l.Records); n > 0 {
		root := l.Records[n-1].proven.Root
		v.Root, v.Checkpoint = hex.EncodeToString(root[:]), string(l.Records[n-1].Checkpoint)
	}
	told := map[string]bool{}
	for _, s := range seen {
		if s.Log != l.Origin || s.Size == 0 {
			continue
		}
		root, ok := roots[s.Size]
		err := s.authentic(l)
		switch {
		case err != nil:
			found = append(found, l.finding(Damaged, nil, "", "%s: %v", s.Who, err))
		case s.Size > l.Size():
			if !told["short"] {
				told["short"] = true
				found = append(found, l.finding(Truncated, nil, "", "it has %d records, and %s has seen %d", l.Size(), s.Who, s.Size))
			}
		case ok && hex.EncodeToString(root[:]) != s.Root:
			found = append(found, l.finding(Rewritten, nil, "", "%s has seen another tree of %d records", s.Who, s.Size))
		case ok:
			v.Sightings++
		}
	}
	return v, found
}

// Replaced compares what records are about with what is there: digestOf returns the SHA-256 of a subject, ok is false where there is none.
// What a snapshot is named by is never used twice, so one with another digest was put in its place.
func (b *Book) Replaced(digestOf func(subject string) (digest string, ok bool)) (found []Finding) {
	for _, l := range b.Logs {
		for _, r := range l.Records {
			for _, s := range r.Statement.Subjects {
				if digest, ok := digestOf(s.Name); ok && s.Digest["sha256"] != digest {
					found = append(found, l.finding(Replaced, &r.Index, "", "%s is there with the digest %s, and was recorded with %s", s.Name, digest, s.Digest["sha256"]))
				}
			}
		}
	}
	return found
}
