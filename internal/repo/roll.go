package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A roll holds the manifests of a system's snapshots of one month once more, so that a year of them is read in a dozen requests
// and not in one for each (docs/format/repository-v1.md, section 7). It is a cache: which snapshots there are says the listing,
// each manifest proves itself as it does in its own object, and a roll that is missing, old or damaged only costs time.

const (
	rollVersion = 1
	rollHead    = 4                               // bytes before the frame
	rollIDSize  = 25                              // bytes of a snapshot's ID
	maxRoll     = 64 << 20                        // plain bytes of a roll
	rollWorth   = 32                              // snapshots in no roll that are worth writing some
	rollAsk     = 4                               // unknown snapshots of a month that are worth asking for its roll
	sealedExtra = seal.HeaderSize + seal.Overhead // bytes of an object of one frame beyond its plain text
)

// roll is what one says: signed texts by the snapshots' IDs.
type roll map[SnapshotID][]byte

// month returns the part of an ID that names its roll; empty for what is no ID.
func (id SnapshotID) month() string {
	if _, ok := id.Time(); !ok || len(id) != rollIDSize {
		return ""
	}
	return string(id[:len("200601")])
}

func rollName(systemHash, month string) string { return prefixRolls + systemHash + "/" + month }

// systemHashOf returns the name hash in the name of a snapshot's object.
func systemHashOf(i store.Info) string { return path.Base(path.Dir(i.Name)) }

// rolledFor returns the texts of objects, of those with the given numbers, that rolls have: only of months of which many are wanted.
func (r *Repository) rolledFor(ctx context.Context, objects []store.Info, wanted []int) map[store.Info][]byte {
	months := map[string]int{}
	for _, n := range wanted {
		months[snapshotIn(objects[n]).month()]++
	}
	maps.DeleteFunc(months, func(month string, n int) bool { return month == "" || n < rollAsk })
	if len(months) == 0 {
		return nil
	}
	rolls := r.readRolls(ctx, systemHashOf(objects[0]), slices.Collect(maps.Keys(months)))
	out := map[store.Info][]byte{}
	for _, n := range wanted {
		id := snapshotIn(objects[n])
		if text, ok := rolls[id.month()][id]; ok && rolledAs(objects[n], text) {
			out[objects[n]] = text
		}
	}
	return out
}

// rolledAs tells whether a text is that of an object as it is listed: a tombstone that has taken its place has another size.
func rolledAs(i store.Info, text []byte) bool { return int64(len(text))+sealedExtra == i.Size }

// readRolls returns the rolls of some months that can be read.
func (r *Repository) readRolls(ctx context.Context, systemHash string, months []string) map[string]roll {
	out := map[string]roll{}
	var mu sync.Mutex // guards out
	var eg errgroup.Group
	eg.SetLimit(manifestReads)
	for _, month := range months {
		eg.Go(func() error {
			if texts, err := r.readRoll(ctx, rollName(systemHash, month)); err == nil {
				mu.Lock()
				defer mu.Unlock()
				out[month] = texts
			}
			return nil
		})
	}
	_ = eg.Wait() // none fails: each snapshot has an object of its own
	return out
}

func (r *Repository) readRoll(ctx context.Context, name string) (roll, error) {
	b, err := r.store.Get(ctx, name, maxRoll)
	if err != nil {
		return nil, err
	}
	plain, err := r.keys.OpenWhole(seal.KindRoll, name, b)
	if err != nil {
		return nil, err
	}
	out, err := parseRoll(plain, path.Base(name))
	if err != nil {
		err = &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: err.Error()}
	}
	return out, err
}

func parseRoll(plain []byte, month string) (roll, error) {
	if len(plain) < rollHead || plain[0] != rollVersion || plain[1]|plain[2]|plain[3] != 0 {
		return nil, errors.New("it is no roll of a known version")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRoll))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	b, err := dec.DecodeAll(plain[rollHead:], nil)
	if err != nil {
		return nil, err
	}
	out, last := roll{}, SnapshotID("")
	for len(b) > 0 {
		if len(b) < rollIDSize+4 {
			return nil, errors.New("an entry is cut off")
		}
		id, n := SnapshotID(b[:rollIDSize]), uint64(binary.LittleEndian.Uint32(b[rollIDSize:]))
		if b = b[rollIDSize+4:]; n > uint64(len(b)) || id <= last || id.month() != month {
			return nil, errors.New("an entry is too long, not in order, or of another month")
		}
		out[id], b, last = b[:n:n], b[n:], id
	}
	return out, nil
}

func (texts roll) encode() ([]byte, error) {
	var b []byte
	for _, id := range slices.Sorted(maps.Keys(texts)) {
		text := texts[id]
		if len(b)+rollIDSize+4+len(text) > maxRoll {
			break // the newest are read from their objects
		}
		b = binary.LittleEndian.AppendUint32(append(b, id...), uint32(len(text)))
		b = append(b, text...)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer enc.Close() //nolint:errcheck // of a writer into nothing
	return enc.EncodeAll(b, []byte{rollVersion, 0, 0, 0}), nil
}

// Roll writes the rolls of a system anew where many of its snapshots are in none, or many of those in one are gone, and removes
// those of months that have no snapshot any more. It returns how many it has written. Who collects does this now and then.
func (r *Repository) Roll(ctx context.Context, system string) (int, error) {
	objects, err := r.snapshotObjects(ctx, system)
	if err != nil || len(objects) < rollWorth {
		return 0, err
	}
	hash := systemHashOf(objects[0])
	months := map[string][]store.Info{}
	for _, i := range objects {
		if month := snapshotIn(i).month(); month != "" && i.Size > tombstoneSize {
			months[month] = append(months[month], i)
		}
	}
	rolls := r.readRolls(ctx, hash, slices.Collect(maps.Keys(months)))
	missing, stale := 0, false
	for month, listed := range months {
		old := rolls[month]
		n := 0
		for _, i := range listed {
			if text, ok := old[snapshotIn(i)]; ok && rolledAs(i, text) {
				n++
			}
		}
		missing += len(listed) - n
		stale = stale || len(old) > 2*n
	}
	if missing < rollWorth && !stale {
		return 0, nil
	}
	written := 0
	for month, listed := range months {
		wrote, err := r.putRoll(ctx, rollName(hash, month), listed, rolls[month])
		if err != nil {
			return written, err
		}
		if wrote {
			written++
		}
	}
	return written, r.dropRolls(ctx, hash, months)
}

// putRoll writes the roll of a month whose snapshots are listed, where the old one has others.
func (r *Repository) putRoll(ctx context.Context, name string, listed []store.Info, old roll) (bool, error) {
	now := roll{}
	var missing []store.Info
	for _, i := range listed {
		if text, ok := old[snapshotIn(i)]; ok && rolledAs(i, text) {
			now[snapshotIn(i)] = text
		} else {
			missing = append(missing, i)
		}
	}
	changed := len(now) < len(old)
	var mu sync.Mutex // guards now and changed
	var eg errgroup.Group
	eg.SetLimit(manifestReads)
	for _, i := range missing {
		eg.Go(func() error {
			text, err := r.manifestText(ctx, i.Name)
			if err != nil {
				return nil //nolint:nilerr // it is gone, or damaged: who needs it is told by its object
			}
			mu.Lock()
			defer mu.Unlock()
			now[snapshotIn(i)], changed = text, true
			return nil
		})
	}
	_ = eg.Wait() // none fails
	if ctx.Err() != nil || !changed || len(now) == 0 {
		return false, ctx.Err()
	}
	plain, err := now.encode()
	if err != nil {
		return false, err
	}
	return true, r.store.Put(ctx, name, r.keys.SealWhole(seal.KindRoll, name, plain))
}

// manifestText returns the signed text of a snapshot's manifest, which has proven itself.
func (r *Repository) manifestText(ctx context.Context, name string) ([]byte, error) {
	object, err := r.store.Get(ctx, name, maxSmall)
	if err != nil {
		return nil, err
	}
	text, err := r.keys.OpenWhole(seal.KindSnapshot, name, object)
	if err != nil {
		return nil, err
	}
	m, err := r.proveManifest(ctx, name, text)
	if err == nil && (m == nil || r.snapshotName(m.System, m.ID) != name) {
		err = errTombstone
	}
	return text, err
}

// dropRolls removes the rolls of months that have no snapshot.
func (r *Repository) dropRolls(ctx context.Context, systemHash string, months map[string][]store.Info) error {
	var gone []string
	err := r.store.List(ctx, prefixRolls+systemHash+"/", "", func(i store.Info) error {
		if len(months[strings.TrimPrefix(i.Name, prefixRolls+systemHash+"/")]) == 0 {
			gone = append(gone, i.Name)
		}
		return nil
	})
	for _, name := range gone {
		err = errors.Join(err, r.store.Delete(ctx, name))
	}
	return err
}
