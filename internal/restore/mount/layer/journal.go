package layer

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
)

// Disk is where the journal is.
type Disk interface {
	// Open opens a file that is there, or a new one.
	Open(name string) (Backing, error)
	// Rename gives a file another's name, durably.
	Rename(from, to string) error
}

// The journal's name, and that of the next one while it is written.
const (
	journalName = "journal"
	journalNext = "journal.next"
)

// JournalNames are those of all files that a journal may leave on its disk.
func JournalNames() []string { return []string{journalName, journalNext} }

// The journal is records of 24 bytes, little-endian: kind (1), the batch (3), file (4), chunk (4), value (8), and the CRC-32C of the
// 20 before it. The first is the head, whose last 16 bytes before the checksum are the mount's own number. Records are synced in batches,
// each before the next is written; the batch's number counts on, and its highest bit is set in the batch's last record. The journal ends
// before the first record that is not whole, as the last batch may have come to the disk in part.
const (
	recordSize = 24

	kindLocal byte = 1 // pages of a chunk are local: value has a bit for each
	kindWhole byte = 2 // the file is whole
	kindCut   byte = 3 // the file is being cut to value bytes
	kindDone  byte = 4 // the last cut of the file is done
	kindHead  byte = 5

	batchEnd = 1 << 23 // of the batch: this is its last record

	compactFrom = 8 << 20 // bytes of a journal that are worth writing it anew, when it is opened
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Journal is what is durably known of the files. Its methods may be called by several goroutines, and its reading ones with a nil
// Journal.
type Journal struct {
	// writing is held while a batch is written and synced.
	writing sync.Mutex
	log     Backing
	end     int64 // of the file
	broken  error // the first failure: after it nobody knows what is durable
	mount   MountID
	batch   uint32 // number of the one that is written next, below batchEnd

	mu     sync.Mutex // guards what follows
	next   *batch     // that records are added to
	known  map[uint32]*known
	wholes []uint64 // a bit for each file that is whole
}

// batch is records that are synced together.
type batch struct {
	records []byte
	done    bool // guarded by the journal's writing
	err     error
}

// known is what the journal says of a file.
type known struct {
	whole   bool
	isCut   bool
	cutting bool     // a cut is not done
	limit   int64    // where isCut
	pages   []uint64 // by chunk
}

// MountID is a number that no other mount has: the files of each are counted from 1 on, and what the journal of one says is wrong for
// another's.
type MountID [16]byte

// MarshalText implements encoding.TextMarshaler.
func (id MountID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *MountID) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(id) {
		return fmt.Errorf("%q is no number of a mount", b)
	}
	copy(id[:], raw)
	return nil
}

// OpenJournal reads the journal of a mount, or begins one. That of another mount is an error, and so is damage: what is behind it was
// promised to be durable.
func OpenJournal(d Disk, mount MountID) (*Journal, error) {
	f, err := d.Open(journalName)
	if err != nil {
		return nil, err
	}
	j := &Journal{log: f, mount: mount, next: &batch{}, known: map[uint32]*known{}}
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the mount's journal: %w", err), f.Close())
	}
	if j.end < compactFrom {
		return j, nil
	}
	if err := j.compact(d); err != nil {
		return nil, errors.Join(fmt.Errorf("write the mount's journal anew: %w", err), j.log.Close())
	}
	return j, nil
}

func (j *Journal) head() []byte {
	return record(nil, kindHead, binary.LittleEndian.Uint32(j.mount[:]), binary.LittleEndian.Uint32(j.mount[4:]), binary.LittleEndian.Uint64(j.mount[8:]))
}

// stamp makes the records of b the journal's next batch.
func (j *Journal) stamp(b []byte) {
	for at := 0; at < len(b); at += recordSize {
		batch := j.batch
		if at+recordSize == len(b) {
			batch |= batchEnd
		}
		r := b[at : at+recordSize]
		binary.LittleEndian.PutUint32(r, uint32(r[0])|batch<<8)
		binary.LittleEndian.PutUint32(r[20:], crc32.Checksum(r[:20], castagnoli))
	}
	if len(b) > 0 {
		j.batch = (j.batch + 1) % batchEnd
	}
}

// isWhole notes that a file is whole: nothing else of it counts any more. It needs mu.
func (j *Journal) isWhole(id uint32) {
	if n := int(id/64) + 1; n > len(j.wholes) {
		j.wholes = append(j.wholes, make([]uint64, n-len(j.wholes))...)
	}
	j.wholes[id/64] |= 1 << (id % 64)
	delete(j.known, id)
}

// whole tells whether a file is. It needs mu.
func (j *Journal) whole(id uint32) bool {
	return int(id/64) < len(j.wholes) && j.wholes[id/64]>>(id%64)&1 == 1
}

// of returns what is known of a file, for writing. It needs mu.
func (j *Journal) of(id uint32) *known {
	k := j.known[id]
	if k == nil {
		k = &known{}
		j.known[id] = k
	}
	return k
}

// What a record can ask for is bounded: a file of 4 TiB, and so many files.
const (
	maxChunks = 1 << 23
	maxFiles  = 1 << 28
)

// Check refuses a file that a journal cannot tell of.
func (id Ident) Check() error {
	if id.ID >= maxFiles || id.Size > maxChunks*ChunkSize {
		return fmt.Errorf("%s is file %d of the snapshot and has %d bytes; a mount has at most %d files, of at most %d bytes each: restore the snapshot instead", id.Path, id.ID, id.Size, maxFiles-1, int64(maxChunks)*ChunkSize)
	}
	return nil
}

func (k *known) set(chunk int, m uint64) {
	if chunk >= len(k.pages) {
		k.pages = append(k.pages, make([]uint64, chunk+1-len(k.pages))...)
	}
	k.pages[chunk] |= m
}

// file returns what is known of a file.
func (j *Journal) file(id uint32) known {
	if j == nil {
		return known{}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.whole(id) {
		return known{whole: true}
	}
	if k := j.known[id]; k != nil {
		out := *k
		out.pages = slices.Clone(k.pages)
		return out
	}
	return known{}
}

// Cut is a truncation that has to be done again.
type Cut struct {
	File uint32
	Size int64
}

// Cuts returns the cuts that were begun and not done when the journal was last written. Whoever opens the files does them, with
// DoneCut, before anything else is done with these.
func (j *Journal) Cuts() (all []Cut) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for id, k := range j.known {
		if k.cutting {
			all = append(all, Cut{id, k.limit})
		}
	}
	return all
}

// DoneCut notes, durably, that a cut was done again.
func (j *Journal) DoneCut(c Cut) error {
	j.endCut(c.File)
	return j.commit(nil)
}

// record adds one, which stamp completes.
func record(b []byte, kind byte, id uint32, chunk uint32, value uint64) []byte {
	b = append(b, kind, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, id)
	b = binary.LittleEndian.AppendUint32(b, chunk)
	b = binary.LittleEndian.AppendUint64(b, value)
	return append(b, 0, 0, 0, 0)
}

// local says that pages of a file are local. They are durable already.
func (j *Journal) local(id uint32, pages map[int]uint64) error {
	var b []byte
	for chunk, m := range pages {
		b = record(b, kindLocal, id, uint32(chunk), m)
	}
	if err := j.commit(b); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.whole(id) {
		return nil
	}
	k := j.of(id)
	for chunk, m := range pages {
		k.set(chunk, m)
	}
	return nil
}

func (j *Journal) setWhole(ids []uint32) error {
	var b []byte
	for _, id := range ids {
		b = record(b, kindWhole, id, 0, 0)
	}
	if err := j.commit(b); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range ids {
		j.isWhole(id)
	}
	return nil
}

func (j *Journal) beginCut(id uint32, size int64) error {
	if err := j.commit(record(nil, kindCut, id, 0, uint64(size))); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.whole(id) {
		return nil
	}
	k := j.of(id)
	k.isCut, k.cutting, k.limit = true, true, size
	return nil
}

// endCut says that a cut is done. That is durable after the next commit.
func (j *Journal) endCut(id uint32) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next.records = record(j.next.records, kindDone, id, 0, 0)
	if k := j.known[id]; k != nil {
		k.cutting = false
	}
}

// commit adds records and returns when they, and all that were added before, are durable. Those that come meanwhile are synced
// together.
func (j *Journal) commit(records []byte) error {
	j.mu.Lock()
	b := j.next
	b.records = append(b.records, records...)
	j.mu.Unlock()
	j.writing.Lock()
	defer j.writing.Unlock()
	if b.done {
		return b.err
	}
	j.mu.Lock()
	j.next = &batch{}
	j.mu.Unlock()
	b.done = true
	if j.broken == nil && len(b.records) > 0 {
		j.broken = j.write(b.records)
	}
	b.err = j.broken
	return b.err
}

func (j *Journal) write(b []byte) error {
	j.stamp(b)
	if _, err := j.log.WriteAt(b, j.end); err != nil {
		return fmt.Errorf("write the mount's journal: %w", err)
	}
	j.end += int64(len(b))
	if err := j.log.Sync(); err != nil {
		return fmt.Errorf("sync the mount's journal: %w", err)
	}
	return nil
}

// Close closes the journal.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.broken == nil {
		j.broken = errors.New("the mount's journal is closed")
	}
	return j.log.Close()
}

// Recut does a cut again.
func Recut(b Backing, c Cut) error {
	size, err := b.Size()
	if err != nil {
		return err
	}
	if size > c.Size {
		err = b.Truncate(c.Size)
	}
	return errors.Join(err, b.Sync())
}
