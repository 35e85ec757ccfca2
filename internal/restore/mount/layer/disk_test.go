package layer

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
)

// disk is one that can lose power: what was not synced is there or not, in pieces of 4 KiB and in any mixture.
type disk struct {
	files map[string]*diskFile
	left  int // operations until power is lost; negative: never
	rnd   *rand.Rand
}

var errPower = errors.New("power was lost")

func newDisk(rnd *rand.Rand) *disk { return &disk{files: map[string]*diskFile{}, left: -1, rnd: rnd} }

// diskFile is a file as a process sees it, and as it is on the disk.
type diskFile struct {
	disk    *disk
	now     []byte
	durable []byte
	since   []change // that are not synced
}

// change is a write or, where data is nil, a change of the size.
type change struct {
	at   int64
	data []byte
}

func apply(b []byte, c change) []byte {
	size := c.at + int64(len(c.data))
	if c.data == nil && size < int64(len(b)) {
		return b[:size:size]
	}
	if size > int64(len(b)) {
		b = append(b[:len(b):len(b)], make([]byte, size-int64(len(b)))...)
	}
	copy(b[c.at:], c.data)
	return b
}

func (d *disk) step() error {
	if d.left == 0 {
		return errPower
	}
	d.left--
	return nil
}

func (d *disk) Open(name string) (Backing, error) {
	if d.files[name] == nil {
		d.files[name] = &diskFile{disk: d}
	}
	return d.files[name], nil
}

func (d *disk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

// die ends the process: what it wrote stays, if power is not lost as well.
func (d *disk) die(power bool) {
	d.left = -1
	for name := range maps.Clone(d.files) {
		f := d.files[name]
		if power {
			f.now = append([]byte{}, f.durable...)
			for _, c := range f.since {
				f.some(c)
			}
		}
		f.durable, f.since = append([]byte{}, f.now...), nil
	}
}

// some applies a part of a change, or nothing.
func (f *diskFile) some(c change) {
	if c.data == nil {
		if f.disk.rnd.IntN(2) == 0 {
			f.now = apply(f.now, c)
		}
		return
	}
	for at := 0; at < len(c.data); at += 4096 {
		if f.disk.rnd.IntN(2) == 0 {
			f.now = apply(f.now, change{c.at + int64(at), c.data[at:min(at+4096, len(c.data))]})
		}
	}
}

func (f *diskFile) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(f.now)) {
		return 0, io.EOF
	}
	n := copy(b, f.now[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) change(c change) error {
	if err := f.disk.step(); err != nil {
		if f.disk.rnd.IntN(2) == 0 {
			f.since = append(f.since, c) // the last one may have come to the disk all the same
		}
		return err
	}
	f.since, f.now = append(f.since, c), apply(f.now, c)
	return nil
}

func (f *diskFile) WriteAt(b []byte, off int64) (int, error) {
	return len(b), f.change(change{off, append([]byte{}, b...)})
}

func (f *diskFile) Truncate(size int64) error { return f.change(change{at: size}) }

func (f *diskFile) Sync() error {
	if err := f.disk.step(); err != nil {
		return err
	}
	f.durable, f.since = append([]byte{}, f.now...), nil
	return nil
}

func (f *diskFile) Size() (int64, error) { return int64(len(f.now)), nil }
func (f *diskFile) Close() error         { return nil }
