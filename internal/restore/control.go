package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Places in pg_control (catalog/pg_control.h): where the checkpoint's position is, and the checksum of what is
// before it. Version 1800 put a byte before the checksum.
const (
	checkpointOffset = 32
	checksumOffset   = 288
	checksumOffset18 = 292
)

// noCheckpoint is a position at which no record can begin (records are aligned to eight bytes), but which
// PostgreSQL accepts as well-formed (XRecOffIsValid), so that it says what is wrong instead of crashing.
const noCheckpoint = 0xDEAD

// readControl takes pg_control out of the snapshot and makes it useless without backup_label.
func (x *run) readControl(ctx context.Context, e *repo.Entry) error {
	rd := x.repo.Reader()
	p, err := rd.FilePart(ctx, e, 0)
	if err == nil {
		if p.Len() != 1 || e.Size > 1<<16 {
			return fmt.Errorf("%s has %d bytes", control.Path, e.Size)
		}
		err = rd.Part(ctx, p, []int{0}, func(_ int, plain []byte) error {
			x.control, err = disarmed(plain)
			return err
		}, nil)
	}
	if isDamage(err) {
		x.controlLost = &DamagedRange{File: control.Path, Length: e.Size, Reason: err.Error()}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", control.Path, err)
	}
	return nil
}

// disarmed returns a copy of pg_control that names no checkpoint.
func disarmed(b []byte) ([]byte, error) {
	d, err := control.Parse(b)
	if err != nil {
		return nil, err
	}
	b = append([]byte(nil), b...)
	at := checksumOffset
	if d.ControlVersion >= 1800 {
		at = checksumOffset18
	}
	binary.LittleEndian.PutUint64(b[checkpointOffset:], noCheckpoint)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[:at], crc32.MakeTable(crc32.Castagnoli)))
	if d, err = control.Parse(b); err == nil && d.Checkpoint != noCheckpoint {
		err = errors.New("its checkpoint is elsewhere than expected")
	}
	return b, err
}

// writeControl is the instant at which the directory becomes a cluster.
func (x *run) writeControl() error {
	if err := x.put(control.Path, x.control); err != nil {
		return err
	}
	return syncDir(filepath.Join(x.opts.To, filepath.Dir(filepath.FromSlash(control.Path))))
}

// put writes a small file of the data directory, whole or not at all; its directory is synced by the caller.
func (x *run) put(rel string, content []byte) error {
	root := x.layout.data.root
	tmp := rel + ".holdfast"
	if err := root.RemoveAll(tmp); err != nil {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, x.opts.Owner.chown(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(tmp, rel)
}

// syncDirs makes the names of all files durable.
func (x *run) syncDirs() error {
	dirs := map[string]bool{}
	for _, a := range x.layout.areas() {
		dirs[a.dir] = true
	}
	for _, path := range x.dirs {
		a, rel, err := x.layout.place(path)
		if err != nil {
			return err
		}
		dirs[filepath.Join(a.dir, filepath.FromSlash(rel))] = true
	}
	for d := range dirs {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}
