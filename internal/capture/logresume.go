package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// LogIdentity says of which cluster a log is. It is kept with the log.
type LogIdentity struct {
	SystemID    uint64          `json:"systemId,string"`
	SegmentSize wal.SegmentSize `json:"segmentSize"`
}

const identityFile = "identity.json"

// ErrForeignLog is in the error where the repository holds another cluster's log under the system's name.
var ErrForeignLog = errors.New("the repository holds the log of another cluster under this name")

// ReadLogIdentity returns of which cluster the log is; ok is false where it is not known yet.
func ReadLogIdentity(ctx context.Context, log *repo.Log) (id LogIdentity, ok bool, err error) {
	b, err := log.File(ctx, identityFile)
	if errors.Is(err, store.ErrNotExist) {
		return id, false, nil
	}
	if err != nil {
		return id, false, err
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, false, fmt.Errorf("read of which cluster the log is: %w", err)
	}
	return id, true, nil
}

// checkLogIdentity refuses a log of another cluster, and notes the cluster of a new one.
func checkLogIdentity(ctx context.Context, log *repo.Log, id LogIdentity) error {
	have, ok, err := ReadLogIdentity(ctx, log)
	switch {
	case err != nil:
		return err
	case !ok:
		b, err := json.Marshal(id)
		if err != nil {
			return err
		}
		return log.PutFile(ctx, identityFile, b)
	case have != id:
		return &dr.Failure{
			What: "the log of this server does not belong here: " + ErrForeignLog.Error(),
			Reason: fmt.Sprintf("the repository has system identifier %d with segments of %d MiB, the server has %d with %d MiB",
				have.SystemID, have.SegmentSize>>20, id.SystemID, id.SegmentSize>>20),
			Next: "correct the connection, or give the new cluster a new system name in holdfast.yaml: the old one stays restorable",
			Err:  ErrForeignLog,
		}
	}
	return nil
}

// LogGap is a part of a timeline's log that the source no longer had when we asked for it. Nothing can be recovered
// across it.
type LogGap struct {
	Timeline wal.TimelineID `json:"timeline"`
	From     wal.LSN        `json:"from"` // the first byte that is missing
	To       wal.LSN        `json:"to"`   // the first that is there again
	Reason   string         `json:"reason"`
	Noticed  time.Time      `json:"noticed"`
}

func (g LogGap) file() string {
	return fmt.Sprintf("gap-%08x-%016x-%016x.json", uint32(g.Timeline), uint64(g.From), uint64(g.To))
}

// String says which part is missing.
func (g LogGap) String() string {
	return fmt.Sprintf("the log of timeline %d has a gap from %s to %s", g.Timeline, g.From, g.To)
}

func putLogGap(ctx context.Context, log *repo.Log, g LogGap) error {
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return log.PutFile(ctx, g.file(), b)
}

// ReadLogGaps returns the gaps that were noticed, by timeline and position.
func ReadLogGaps(ctx context.Context, log *repo.Log) ([]LogGap, error) {
	names, err := log.Files(ctx)
	if err != nil {
		return nil, err
	}
	var gaps []LogGap
	for _, n := range names {
		if !strings.HasPrefix(n, "gap-") {
			continue
		}
		b, err := log.File(ctx, n)
		if err != nil {
			return nil, err
		}
		var g LogGap
		if err := json.Unmarshal(b, &g); err != nil {
			return nil, fmt.Errorf("read the gap %s: %w", n, err)
		}
		gaps = append(gaps, g)
	}
	return gaps, nil
}

// heldLog is what the repository holds of a timeline's newest block.
type heldLog struct {
	end    wal.LSN // where the log goes on
	data   []byte  // right before end, within one block
	pieces int
}

// readHeld finds where the stored log of a timeline ends, and reads its unfinished block. ok is false where there
// is nothing of it.
func readHeld(ctx context.Context, log *repo.Log, tl wal.TimelineID, gaps []LogGap) (h heldLog, ok bool, err error) {
	mark, marked, err := log.Mark(ctx, repo.StreamID(tl))
	if err != nil {
		return h, false, err
	}
	base := mark.LSN
	for _, g := range gaps {
		if g.Timeline == tl && uint64(g.To) > base {
			base, marked = uint64(g.To), true
		}
	}
	from := uint64(logBlockStart(wal.LSN(base)))
	if from == base && from > 0 {
		from-- // to see the block that ended here
	}
	extents, err := log.Extents(ctx, repo.StreamID(tl), from)
	if err != nil {
		return h, false, err
	}
	ranges := repo.Merge(extents)
	// What lies behind a hole was stored before its predecessor when the writer died: it comes again.
	at := slices.IndexFunc(ranges, func(r repo.Range) bool { return !marked || r.End >= base })
	if at < 0 || marked && ranges[at].Start > base {
		return heldLog{end: wal.LSN(base)}, marked, nil
	}
	r := ranges[at]
	h.end = wal.LSN(r.End)
	lo := max(wal.LSN(r.Start), logBlockStart(h.end))
	if lo == h.end {
		return h, true, nil
	}
	h.data, h.pieces, err = readRange(ctx, log, extents, lo, h.end)
	return h, err == nil, err
}

// readRange reads lo to hi from extents that cover it, and counts those that lie within.
func readRange(ctx context.Context, log *repo.Log, extents []repo.Extent, lo, hi wal.LSN) ([]byte, int, error) {
	data := make([]byte, hi-lo)
	reader, pieces, at := log.Reader(), 0, lo
	for _, e := range extents {
		start, end := wal.LSN(e.Start), wal.LSN(e.End)
		if start >= lo && end <= hi {
			pieces++
		}
		if start > at || end <= at || start >= hi {
			continue
		}
		err := reader.Each(ctx, e, uint64(at), uint64(hi), func(piece []byte) error {
			at += wal.LSN(copy(data[at-lo:], piece))
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read the end of the stored log: %w", err)
		}
	}
	if at < hi {
		return nil, 0, fmt.Errorf("the stored log ends at %s, not at %s: somebody removes it meanwhile", at, hi)
	}
	return data, pieces, nil
}

// dropFinished removes the pieces of finished blocks that a writer left when it died.
func dropFinished(ctx context.Context, log *repo.Log, tl wal.TimelineID, end wal.LSN) error {
	from := uint64(0)
	if b := logBlockStart(end); b > logBlockSize {
		from = uint64(b) - logBlockSize
	}
	extents, err := log.Extents(ctx, repo.StreamID(tl), from)
	if err != nil {
		return err
	}
	for _, e := range extents {
		covers := func(o repo.Extent) bool { return o != e && o.Start >= e.Start && o.End <= e.End }
		if e.End%logBlockSize == 0 && slices.ContainsFunc(extents, covers) {
			err = errors.Join(err, log.DropPieces(ctx, e))
		}
	}
	return err
}

// storedTimelines returns the timelines of which the repository has some log, ascending.
func storedTimelines(ctx context.Context, log *repo.Log) ([]wal.TimelineID, error) {
	streams, err := log.Streams(ctx)
	if err != nil {
		return nil, err
	}
	var tls []wal.TimelineID
	for _, s := range streams {
		tls = append(tls, wal.TimelineID(s))
	}
	return tls, nil
}

// storeHistory puts a timeline's history into the repository, unless it is there. One that differs is an error: two
// servers were promoted to one timeline.
func storeHistory(ctx context.Context, log *repo.Log, tl wal.TimelineID, content []byte) error {
	have, err := log.File(ctx, pg.HistoryFile(tl))
	switch {
	case errors.Is(err, store.ErrNotExist):
		return log.PutFile(ctx, pg.HistoryFile(tl), content)
	case err != nil:
		return err
	case !bytes.Equal(have, content):
		return &dr.Failure{
			What:   fmt.Sprintf("the history of timeline %d is another one than the repository has", tl),
			Reason: "two servers were promoted to the same timeline; their logs must not be mixed",
			Next:   "stop the one that is not the primary, or protect it under another system name",
		}
	}
	return nil
}

// UploadSpool stores what the spool holds from a run before, and empties it. The histories go first.
func UploadSpool(ctx context.Context, log *repo.Log, s *Spool) error {
	files, err := s.Files()
	if err != nil {
		return fmt.Errorf("read the spool: %w", err)
	}
	for name, content := range files {
		tl, err := strconv.ParseUint(strings.TrimSuffix(name, ".history"), 16, 32)
		if err != nil {
			continue
		}
		if err := storeHistory(ctx, log, wal.TimelineID(tl), content); err != nil {
			return err
		}
	}
	encoder := log.Encoder()
	buf := make([]byte, logBlockSize)
	for _, r := range s.Ranges() {
		data := buf[:r.End-r.Start]
		if err := s.Read(r.Timeline, r.Start, data); err != nil {
			return err
		}
		clock := repo.ExtentClock{Source: r.Clock, Writer: time.Now()}
		if err := encoder.Put(ctx, repo.StreamID(r.Timeline), uint64(r.Start), data, clock, repo.Fast); err != nil {
			return err
		}
	}
	for _, f := range s.list() {
		err = errors.Join(err, s.Drop(f.timeline, wal.MaxLSN))
	}
	for name := range files {
		err = errors.Join(err, s.DropFile(name))
	}
	return err
}
