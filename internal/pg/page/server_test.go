package page_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// relationFile matches the name of a relation segment: number, fork, segment number.
var relationFile = regexp.MustCompile(`^(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$`)

// TestRealPages takes PostgreSQL as the oracle: every page of a cluster with checksums that was stopped verifies,
// with one byte of it changed it does not, and every chunk comes back from the codec. The tables are new,
// updated, pruned and vacuumed; there is an index of each access method.
func TestRealPages(t *testing.T) {
	for _, version := range pgtest.Versions(t) {
		t.Run(version, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{Version: version, Checksums: true, Conf: map[string]string{"autovacuum": "off"}})
			s.Exec("", realTables...)
			s.Stop(pgtest.Fast)
			states, unseen := map[page.State]int{}, 0
			chunks, encoded, in, out := 0, 0, 0, 0
			codec := page.NewCodec()
			for _, file := range relationFiles(t, s.DataDir) {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				unseen += verifyFile(t, file, b, states)
				for ; len(b) > 0; b = b[min(len(b), 64*page.Size):] {
					chunk := b[:min(len(b), 64*page.Size)]
					z, _, ok := codec.Encode(nil, chunk)
					if chunks++; !ok {
						continue
					}
					back, err := codec.Decode(bytes.Repeat([]byte{0xA5}, len(chunk))[:0], z, len(chunk), ^uint64(0))
					if err != nil || !bytes.Equal(back, chunk) {
						t.Fatalf("%s: a chunk does not come back: %v", file, err)
					}
					if encoded%8 == 0 {
						checkByDocument(t, z, chunk)
					}
					encoded, in, out = encoded+1, in+len(chunk), out+len(z)
				}
			}
			// A checksum has 16 bits: one change in 65,536 gives the same. Here are about 1,100 with random bytes among them.
			if unseen > 2 {
				t.Errorf("%d changes of a byte or a block were not seen", unseen)
			}
			t.Logf("pages by state %v; %d of %d chunks encoded, %d bytes to %d", states, encoded, chunks, in, out)
			if states[page.OK] < 3000 || encoded < chunks/2 || in < out*4 {
				t.Errorf("too little was tested, or it was encoded badly")
			}
		})
	}
}

var realTables = []string{
	"CREATE TABLE plain AS SELECT i AS id, i % 7 AS kind, repeat('x', i % 90) AS filler, now() AS at FROM generate_series(1, 60000) i",
	"ALTER TABLE plain ADD PRIMARY KEY (id)",
	"CREATE INDEX ON plain USING hash (filler)",
	"CREATE INDEX ON plain USING brin (at)",
	"CREATE TABLE wide (id int, doc text, words text[], place point)",
	"ALTER TABLE wide ALTER doc SET STORAGE EXTERNAL", // TOAST without compression
	"INSERT INTO wide SELECT i, repeat(md5(i::text), i % 200), string_to_array(md5(i::text), '5'), point(i, i % 100) FROM generate_series(1, 8000) i",
	"CREATE INDEX ON wide USING gin (words)",
	"CREATE INDEX ON wide USING gist (place)",
	"CREATE INDEX ON wide USING spgist (place)",
	"CREATE TABLE noise AS SELECT gen_random_uuid() AS id, (i % 100)::smallint AS kind, gen_random_uuid() AS other FROM generate_series(1, 20000) i",
	"CREATE INDEX ON noise (id)",
	"CREATE UNLOGGED TABLE scratch AS SELECT * FROM plain LIMIT 1000",
	"CREATE SEQUENCE numbers",
	"UPDATE plain SET kind = kind + 1 WHERE id % 5 = 0",
	"DELETE FROM plain WHERE id % 11 = 0",
	"VACUUM plain",
	"UPDATE plain SET filler = 'new' WHERE id % 3 = 0", // into free space with old bytes in it
	"DELETE FROM wide WHERE id % 4 = 0",
	"VACUUM (FREEZE) wide",
	"INSERT INTO wide SELECT i, md5(i::text), '{}', point(i, i) FROM generate_series(1, 2000) i",
}

func relationFiles(t *testing.T, dataDir string) []string {
	t.Helper()
	var files []string
	for _, dir := range []string{"base", "global"} {
		err := filepath.WalkDir(filepath.Join(dataDir, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && relationFile.MatchString(d.Name()) {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// verifyFile counts the states of a file's pages, and returns how many changes to them no checksum told.
func verifyFile(t *testing.T, file string, b []byte, states map[page.State]int) (unseen int) {
	t.Helper()
	segment, _ := strconv.Atoi(relationFile.FindStringSubmatch(filepath.Base(file))[3])
	for n := 0; n*page.Size < len(b); n++ {
		p := b[n*page.Size:][:page.Size]
		block := uint32(segment*page.SegmentBlocks + n)
		state, err := page.Verify(p, block, true)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		states[state]++
		if state != page.OK || n%16 != 0 {
			continue
		}
		at := 24 + (n*131)%(page.Size-24) // behind the header, elsewhere in each page
		p[at] ^= 0x40
		if state, _ := page.Verify(p, block, true); state != page.BadChecksum {
			t.Logf("%s, page %d with byte %d changed: state %d", file, n, at, state)
			unseen++
		}
		p[at] ^= 0x40
		if state, _ := page.Verify(p, block+1, true); state != page.BadChecksum {
			t.Logf("%s, page %d taken for the next block: state %d", file, n, state)
			unseen++
		}
	}
	return unseen
}
