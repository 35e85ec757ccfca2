package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

func (j *Journal) load() error {
	size, err := j.log.Size()
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20/recordSize*recordSize)
	torn := false // a record was not whole: what is behind it is looked at only for being newer
	for at := int64(0); at+recordSize <= size; {
		piece := b[:min(int64(len(b)), (size-at)/recordSize*recordSize)]
		if _, err := j.log.ReadAt(piece, at); err != nil {
			return err
		}
		for r := range slices.Chunk(piece, recordSize) {
			switch {
			case !sound(r):
				torn = true
			case torn && (j.end == 0 || batchOf(r)&^batchEnd != j.batch):
				return fmt.Errorf("byte %d is damaged, and what is behind it was synced after it: %w", j.end, errDamaged)
			case torn:
			default:
				if err := j.take(r, at == 0); err != nil {
					return fmt.Errorf("byte %d: %w", at, err)
				}
				if j.batch = batchOf(r) &^ batchEnd; batchOf(r)&batchEnd != 0 {
					j.batch = (j.batch + 1) % batchEnd
				}
				j.end += recordSize
			}
			at += recordSize
		}
	}
	if j.end == 0 {
		return errors.Join(j.cutOff(size), j.write(j.head()))
	}
	return j.cutOff(size)
}

// errDamaged says what to do where the journal cannot be believed.
var errDamaged = errors.New("it cannot be said what of the mount is here; holdfast mount abort removes it, and it may be mounted anew")

// cutOff removes what nobody was told to be durable.
func (j *Journal) cutOff(size int64) error {
	if j.end == size {
		return nil
	}
	return errors.Join(j.log.Truncate(j.end), j.log.Sync())
}

// sound tells whether a record is whole.
func sound(r []byte) bool {
	return crc32.Checksum(r[:20], castagnoli) == binary.LittleEndian.Uint32(r[20:])
}

func batchOf(r []byte) uint32 { return binary.LittleEndian.Uint32(r) >> 8 }

// take counts in a record that is whole.
func (j *Journal) take(r []byte, first bool) error {
	if first != (r[0] == kindHead) || first && !bytes.Equal(r[4:20], j.mount[:]) {
		return fmt.Errorf("it is the journal of another mount, or of another version: %w", errDamaged)
	}
	if first {
		return nil
	}
	id, chunk, value := binary.LittleEndian.Uint32(r[4:]), binary.LittleEndian.Uint32(r[8:]), binary.LittleEndian.Uint64(r[12:])
	if r[0] < kindLocal || r[0] > kindDone || id >= maxFiles || chunk >= maxChunks {
		return fmt.Errorf("a record of kind %d, file %d and chunk %d is none of this version: %w", r[0], id, chunk, errDamaged)
	}
	if j.whole(id) {
		return nil // it is an ordinary file, of which this says nothing
	}
	switch r[0] {
	case kindLocal:
		j.of(id).set(int(chunk), value)
	case kindWhole:
		j.isWhole(id)
	case kindCut:
		k := j.of(id)
		k.isCut, k.cutting, k.limit = true, true, int64(value)
	case kindDone:
		j.of(id).cutting = false
	}
	return nil
}

// compact writes the journal anew, with what still counts.
func (j *Journal) compact(d Disk) error {
	next, err := d.Open(journalNext)
	if err != nil {
		return err
	}
	old := j.log
	j.log, j.end = next, 0
	if err := next.Truncate(0); err != nil {
		return errors.Join(err, old.Close())
	}
	b := j.head()
	for id := range uint32(len(j.wholes) * 64) {
		if j.whole(id) {
			b = record(b, kindWhole, id, 0, 0)
		}
	}
	for id, k := range j.known {
		b = k.records(b, id)
		if len(b) >= 1<<20 {
			j.stamp(b)
			if _, err := next.WriteAt(b, j.end); err != nil {
				return errors.Join(err, old.Close())
			}
			j.end += int64(len(b))
			b = b[:0]
		}
	}
	if err := j.write(b); err != nil {
		return errors.Join(err, old.Close())
	}
	return errors.Join(d.Rename(journalNext, journalName), old.Close())
}

func (k *known) records(b []byte, id uint32) []byte {
	for chunk, m := range k.pages {
		if m != 0 {
			b = record(b, kindLocal, id, uint32(chunk), m)
		}
	}
	if k.isCut {
		b = record(b, kindCut, id, 0, uint64(k.limit))
		if !k.cutting {
			b = record(b, kindDone, id, 0, 0)
		}
	}
	return b
}
