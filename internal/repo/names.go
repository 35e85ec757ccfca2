package repo

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Object names (docs/format/repository-v1.md, section 1). Systems appear as keyed hashes only.
const (
	markerName      = "holdfast.json"
	prefixKeys      = "keys/"
	prefixEpochs    = "epochs/"
	prefixPacks     = "packs/"
	prefixIndex     = "index/"
	prefixBase      = "base/"
	prefixSystems   = "systems/"
	prefixSnapshots = "snapshots/"
	prefixIntents   = "intents/"
	prefixCollect   = "collections/"
	prefixLog       = "log/"
	prefixLogFiles  = "logfiles/"
	prefixMarks     = "marks/"
	prefixSummaries = "summaries/"
	prefixSigners   = "signers/"
	prefixGraves    = "graves/"
	prefixPlaces    = "places/"
	prefixRolls     = "rolls/"
	prefixEvidence  = "evidence/"
	replicaName     = "replica"
	lockedName      = "locked"
	scrubName       = "scrub"
)

// ResidencyGroup names the systems whose data may share a pack: 1 to 32 characters of [a-z0-9-].
type ResidencyGroup string

// DefaultGroup is the residency group of systems that name none.
const DefaultGroup ResidencyGroup = "main"

// Check returns an error that says what is wrong with the group's name.
func (g ResidencyGroup) Check() error {
	if g == "" || len(g) > 32 {
		return fmt.Errorf("residency group %q must have 1 to 32 characters", string(g))
	}
	for _, c := range []byte(g) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("residency group %q may have only the characters a-z, 0-9 and -", string(g))
		}
	}
	return nil
}

// PackID names a pack: 16 random bytes.
type PackID [16]byte

// String returns the ID in hexadecimal.
func (p PackID) String() string { return hex.EncodeToString(p[:]) }

func newPackID() (p PackID) {
	rand.Read(p[:]) //nolint:errcheck // never fails since Go 1.24
	return p
}

func packName(g ResidencyGroup, id PackID) string {
	s := id.String()
	return prefixPacks + string(g) + "/" + s[:2] + "/" + s
}

// FreeOfOrder are the prefixes of a log's objects that say nothing of others.
func FreeOfOrder() []string { return []string{prefixLog, prefixSummaries} }

func parsePackName(name string) (g ResidencyGroup, id PackID, ok bool) {
	rest, found := strings.CutPrefix(name, prefixPacks)
	parts := strings.Split(rest, "/")
	if !found || len(parts) != 3 || len(parts[2]) != 32 || parts[2][:2] != parts[1] {
		return "", id, false
	}
	if _, err := hex.Decode(id[:], []byte(parts[2])); err != nil {
		return "", id, false
	}
	g = ResidencyGroup(parts[0])
	return g, id, g.Check() == nil && packName(g, id) == name // no second way to write a name
}

// SnapshotID names a snapshot within its system: the UTC time at which it began and eight random digits, such
// as 20261123t204700z-5e1f09ab. IDs sort by time; nothing else depends on the clock.
type SnapshotID string

// NewSnapshotID returns a new ID for a snapshot that begins at now.
func NewSnapshotID(now time.Time) SnapshotID {
	return SnapshotID(now.UTC().Format("20060102t150405z") + "-" + randomHex(4))
}

// rewritten returns a new ID for a snapshot that takes the place of id: with the same time, and behind it in the order of
// names, so that the newest of a system is still found by its name.
func (id SnapshotID) rewritten() SnapshotID {
	stamp, suffix, _ := strings.Cut(string(id), "-")
	last, err := strconv.ParseUint(suffix, 16, 32)
	room := uint64(1)<<32 - 1 - last
	if err != nil || room == 0 {
		return SnapshotID(stamp + "-" + randomHex(4)) // behind the last name is none: any other one will do
	}
	return SnapshotID(fmt.Sprintf("%s-%08x", stamp, last+1+mathrand.Uint64N(min(room, 1<<20))))
}

// Time returns the time in the ID; ok is false for what is no ID.
func (id SnapshotID) Time() (t time.Time, ok bool) {
	stamp, suffix, found := strings.Cut(string(id), "-")
	if !found || len(suffix) != 8 || strings.Trim(suffix, "0123456789abcdef") != "" {
		return t, false
	}
	t, err := time.Parse("20060102t150405z", stamp)
	return t, err == nil
}

func (r *Repository) snapshotName(system string, id SnapshotID) string {
	return prefixSnapshots + r.keys.NameHash(system) + "/" + string(id)
}

func (r *Repository) intentName(system string, id SnapshotID) string {
	return prefixIntents + r.keys.NameHash(system) + "/" + string(id)
}

// outcomeOf returns the snapshot object that decides an intent. Of a snapshot that is copied there may be several: each copier
// has its own, whose name goes on behind the snapshot's ID.
func outcomeOf(intent string) string {
	snapshot, _, _ := strings.Cut(strings.TrimPrefix(intent, prefixIntents), ".")
	return prefixSnapshots + snapshot
}

func (r *Repository) systemName(system string) string { return prefixSystems + r.keys.NameHash(system) }

// StreamID numbers a branch of a system's log: PostgreSQL's timeline.
type StreamID uint32

func (r *Repository) logPrefix(system string, s StreamID) string {
	return fmt.Sprintf("%s%s/%08x/", prefixLog, r.keys.NameHash(system), uint32(s))
}

func (r *Repository) extentName(system string, s StreamID, start, end uint64) string {
	return fmt.Sprintf("%s%016x-%016x", r.logPrefix(system, s), start, end)
}

func parseExtentName(name string) (s StreamID, start, end uint64, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || len(parts[2]) != 8 || len(parts[3]) != 33 || parts[3][16] != '-' {
		return 0, 0, 0, false
	}
	n, err1 := strconv.ParseUint(parts[2], 16, 32)
	start, err2 := strconv.ParseUint(parts[3][:16], 16, 64)
	end, err3 := strconv.ParseUint(parts[3][17:], 16, 64)
	return StreamID(n), start, end, err1 == nil && err2 == nil && err3 == nil && start < end && end-start <= MaxExtent
}

func signerName(k seal.PublicKey) string { return prefixSigners + k.ID() }

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // never fails since Go 1.24
	return hex.EncodeToString(b)
}
