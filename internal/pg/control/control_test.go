package control_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"strconv"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

func TestRealServers(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{Version: v, Checksums: true, InitArgs: []string{"--wal-segsize=2"}})
			s.Exec("", "CHECKPOINT")
			d, raw, err := control.Read(t.Context(), s.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{
				strconv.FormatUint(d.SystemID, 10), strconv.Itoa(int(d.ControlVersion)), strconv.Itoa(int(d.CatalogVersion)),
				d.Checkpoint.String(), d.Redo.String(), strconv.Itoa(int(d.Timeline)), strconv.Itoa(int(d.PrevTimeline)),
				strconv.FormatBool(d.FullPageWrites), strconv.FormatInt(d.CheckpointTime.Unix(), 10),
				strconv.Itoa(int(d.BlockSize)), strconv.Itoa(int(d.SegmentBlocks)), strconv.Itoa(int(d.WALSegmentSize)),
				strconv.Itoa(int(d.ChecksumVersion)), d.MinRecovery.String(), strconv.FormatInt(d.Written.Unix(), 10),
			}
			for i, want := range []string{
				"system_identifier FROM pg_control_system()", "pg_control_version FROM pg_control_system()",
				"catalog_version_no FROM pg_control_system()", "checkpoint_lsn FROM pg_control_checkpoint()",
				"redo_lsn FROM pg_control_checkpoint()", "timeline_id FROM pg_control_checkpoint()",
				"prev_timeline_id FROM pg_control_checkpoint()", "full_page_writes::text FROM pg_control_checkpoint()",
				"extract(epoch FROM checkpoint_time)::bigint FROM pg_control_checkpoint()", "database_block_size FROM pg_control_init()",
				"blocks_per_segment FROM pg_control_init()", "bytes_per_wal_segment FROM pg_control_init()",
				"data_page_checksum_version FROM pg_control_init()", "min_recovery_end_lsn FROM pg_control_recovery()",
				"extract(epoch FROM pg_control_last_modified)::bigint FROM pg_control_system()",
			} {
				if w := s.Query("", "SELECT "+want); got[i] != w {
					t.Errorf("%s: got %s, want %s", want, got[i], w)
				}
			}
			if strconv.Itoa(d.Major()) != v || d.State != control.InProduction || d.WALLevel != 1 || len(raw) != control.FileSize {
				t.Errorf("version %d, state %v, wal_level %d, %d bytes", d.Major(), d.State, d.WALLevel, len(raw))
			}
			s.Stop(pgtest.Fast)
			if d, _, err := control.Read(t.Context(), s.DataDir); err != nil || d.State != control.ShutDown {
				t.Errorf("after a clean stop: %v, %v", d.State, err)
			}
			everyBit(t, raw)
		})
	}
}

// everyBit flips each bit of what the checksum covers, and cuts the file at each length.
func everyBit(t *testing.T, raw []byte) {
	for i := range 296 * 8 {
		raw[i/8] ^= 1 << (i % 8)
		if d, err := control.Parse(raw); err == nil {
			// Behind the checksum of 13 to 17 lie four bytes that nothing covers.
			if i/8 < 292 || d.ControlVersion == 1800 {
				t.Errorf("bit %d of byte %d was flipped, and nobody saw it", i%8, i/8)
			}
		}
		raw[i/8] ^= 1 << (i % 8)
	}
	for n := range 296 {
		if _, err := control.Parse(raw[:n]); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
}

func TestReadWhileTheServerWrites(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	ctx, stop := context.WithCancel(context.Background())
	conn := s.Connect("")
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop()
		for range 200 {
			if _, err := conn.Exec(context.Background(), "CHECKPOINT"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	reads := 0
	for ctx.Err() == nil {
		_, _, err := control.Read(context.Background(), s.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		reads++
	}
	wg.Wait()
	t.Logf("%d reads", reads)
}

func TestTornIsAType(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	_, raw, err := control.Read(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	raw[40]++
	_, err = control.Parse(raw)
	var torn *control.TornError
	if !errors.As(err, &torn) {
		t.Fatalf("got %v, want a TornError", err)
	}
}

func FuzzParse(f *testing.F) {
	b := make([]byte, 296)
	b[8], b[9] = 0x14, 0x05
	b[0], b[204] = 1, 8 // a system identifier, the alignment
	binary.LittleEndian.PutUint64(b[208:], math.Float64bits(1234567))
	for i, v := range []uint32{8192, 131072, 8192, 16 << 20} {
		binary.LittleEndian.PutUint32(b[216+4*i:], v)
	}
	f.Add(b)
	b2 := append([]byte(nil), b...)
	b2[8], b2[9] = 0x08, 0x07
	f.Add(b2)
	f.Fuzz(func(t *testing.T, given []byte) {
		b := bytes.Clone(given)
		// A right checksum lets the fuzzer see what lies behind it.
		if at := map[byte]int{0x14: 288, 0xA4: 288, 0x08: 292}; len(b) >= 296 && at[b[8]] > 0 {
			n := at[b[8]]
			binary.LittleEndian.PutUint32(b[n:], crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)))
		}
		d, err := control.Parse(b)
		if err == nil && (d.BlockSize == 0 || d.SegmentBlocks == 0 || d.WALSegmentSize.Check() != nil) {
			t.Fatalf("accepted %+v", d)
		}
	})
}
