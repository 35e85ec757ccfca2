package scrub

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"time"
)

// The ledger's file is records of 32 bytes, one behind the other, little endian; a later one takes the place of an earlier one. It is
// not synced: what a power failure takes away is read again. At the first record that is not as it was written the file ends.
//
//	0   kind u8: 1 object, 2 account, 3 survey
//	4   object:  key, 12 bytes; size u32; seen u32; read u32        1: flags u8: 1 damaged, 2 gone
//	    account: balance i64; at u32; listed u32; began u32
//	    survey:  at u32; cost i64
//	28  CRC-32C of what is before
//
// Times are seconds since 1970; 0 is never, or unknown. The first record is of kind 4 and has the hash of the place in its key: what was
// read elsewhere says nothing about this place.
const (
	recordSize    = 32
	kindObject    = 1
	kindAccount   = 2
	kindSurvey    = 3
	kindPlace     = 4
	flagDamaged   = 1
	flagGone      = 2
	compactFrom   = 4096 // records from which a file is rewritten that has twice as many as it needs
	maxLedgerFile = 4 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// key stands for an object's name.
type key [12]byte

func keyOf(name string) key {
	sum := sha256.Sum256([]byte(name))
	return key(sum[:12])
}

// record is what is known of an object.
type record struct {
	size    uint32 // in the listing, with its parity
	seen    uint32 // the earliest time at which it can have been written; 0: unknown
	read    uint32 // when it was last read whole and found good; 0: never
	damaged bool   // and not put back
}

// ledger is what is known of a replica. For one goroutine.
type ledger struct {
	objects  map[key]record
	balance  float64 // bytes that may be read, as of at
	at       time.Time
	began    time.Time // when the ledger was begun
	listed   time.Time // when the replica was listed; zero: never
	surveyed time.Time
	cost     int64 // bytes that the last survey has read

	path    string
	file    *os.File // nil: it is only read
	records int      // in the file
	buf     []byte   // to be written
}

func stamp(t time.Time) uint32 {
	if t.IsZero() || t.Unix() <= 0 {
		return 0
	}
	return uint32(min(t.Unix(), math.MaxUint32))
}

func fromStamp(s uint32) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// openLedger opens the ledger of a place, and makes an empty one where there is none that can be read.
func openLedger(path, place string, now time.Time) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{objects: map[key]record{}, path: path, file: f}
	whole, err := l.load(f, keyOf(place))
	if err == nil && !whole {
		err = f.Truncate(int64(l.records) * recordSize)
	}
	if err == nil {
		_, err = f.Seek(int64(l.records)*recordSize, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if l.records == 0 {
		l.append(kindPlace, 0, func(b []byte) { k := keyOf(place); copy(b[4:], k[:]) })
	}
	if l.began.IsZero() {
		l.began = now
	}
	return l, nil
}

// readLedger returns what a ledger says, without a lock.
func readLedger(path, place string) (*ledger, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	l := &ledger{objects: map[key]record{}, path: path}
	_, err = l.load(f, keyOf(place))
	return l, err
}

// load reads the records of a file that are good, from its beginning on; none where it is of another place.
func (l *ledger) load(f *os.File, place key) (whole bool, err error) {
	b, err := io.ReadAll(io.LimitReader(f, maxLedgerFile))
	if err != nil {
		return false, fmt.Errorf("read the ledger: %w", err)
	}
	for ; len(b) >= recordSize; b = b[recordSize:] {
		r := b[:recordSize]
		if crc32.Checksum(r[:28], castagnoli) != binary.LittleEndian.Uint32(r[28:]) {
			break
		}
		if l.records == 0 && (r[0] != kindPlace || key(r[4:16]) != place) {
			return false, nil
		}
		l.apply(r)
		l.records++
	}
	return len(b) == 0, nil
}

func (l *ledger) apply(r []byte) {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(r[at:]) }
	switch k := key(r[4:16]); r[0] {
	case kindObject:
		if r[1]&flagGone != 0 {
			delete(l.objects, k)
			return
		}
		l.objects[k] = record{u32(16), u32(20), u32(24), r[1]&flagDamaged != 0}
	case kindAccount:
		l.balance = float64(int64(binary.LittleEndian.Uint64(r[4:])))
		l.at, l.listed, l.began = fromStamp(u32(12)), fromStamp(u32(16)), fromStamp(u32(20))
	case kindSurvey:
		l.surveyed, l.cost = fromStamp(u32(4)), int64(binary.LittleEndian.Uint64(r[8:]))
	}
}

func (l *ledger) append(kind, flags byte, fill func(r []byte)) {
	var r [recordSize]byte
	r[0], r[1] = kind, flags
	fill(r[:])
	binary.LittleEndian.PutUint32(r[28:], crc32.Checksum(r[:28], castagnoli))
	l.buf = append(l.buf, r[:]...)
}

// set notes what is known of an object.
func (l *ledger) set(k key, x record) {
	l.objects[k] = x
	l.appendObject(k, x)
}

func (l *ledger) appendObject(k key, x record) {
	flags := byte(0)
	if x.damaged {
		flags = flagDamaged
	}
	l.append(kindObject, flags, func(r []byte) {
		copy(r[4:], k[:])
		binary.LittleEndian.PutUint32(r[16:], x.size)
		binary.LittleEndian.PutUint32(r[20:], x.seen)
		binary.LittleEndian.PutUint32(r[24:], x.read)
	})
}

// drop forgets an object that is gone.
func (l *ledger) drop(k key) {
	delete(l.objects, k)
	l.append(kindObject, flagGone, func(r []byte) { copy(r[4:], k[:]) })
}

func (l *ledger) appendAccount() {
	l.append(kindAccount, 0, func(r []byte) {
		binary.LittleEndian.PutUint64(r[4:], uint64(int64(l.balance)))
		binary.LittleEndian.PutUint32(r[12:], stamp(l.at))
		binary.LittleEndian.PutUint32(r[16:], stamp(l.listed))
		binary.LittleEndian.PutUint32(r[20:], stamp(l.began))
	})
	l.append(kindSurvey, 0, func(r []byte) {
		binary.LittleEndian.PutUint32(r[4:], stamp(l.surveyed))
		binary.LittleEndian.PutUint64(r[8:], uint64(l.cost))
	})
}

// save writes what was noted. A file that has grown is written anew.
func (l *ledger) save() error {
	l.appendAccount()
	if n := l.records + len(l.buf)/recordSize; n > compactFrom && n > 2*(len(l.objects)+3) {
		return l.compact()
	}
	if _, err := l.file.Write(l.buf); err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	l.records += len(l.buf) / recordSize
	l.buf = l.buf[:0]
	return nil
}

// compact writes the file anew: it appears whole, or the old one stays.
func (l *ledger) compact() (err error) {
	var head [recordSize]byte
	if _, err := l.file.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	f, err := os.OpenFile(l.path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	l.buf = append(l.buf[:0], head[:]...)
	for k, x := range l.objects {
		l.appendObject(k, x)
	}
	l.appendAccount()
	if _, err = f.Write(l.buf); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(l.path+".new", l.path)
	}
	if err != nil {
		l.buf = l.buf[:0]
		return errors.Join(fmt.Errorf("write the ledger: %w", err), f.Close())
	}
	err = l.file.Close()
	l.file, l.records, l.buf = f, len(l.buf)/recordSize, l.buf[:0]
	return err
}

func (l *ledger) close() error { return errors.Join(l.save(), l.file.Close()) }
