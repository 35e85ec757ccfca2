package incremental

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever an INCREMENTAL file begins with, there is no panic, and a header that is accepted is the one that its
// bytes say.
func FuzzHeader(f *testing.F) {
	f.Add(encode(header{blocks: []uint32{1, 5, 9}, length: 12}, nil))
	f.Add(encode(header{length: 3}, nil))
	f.Add(encode(header{blocks: []uint32{5, 5}, length: 12}, nil))
	f.Add([]byte("\x0d\x1f\xae\xd3\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHeader(bytes.NewReader(b), 131072)
		if err != nil {
			return
		}
		if again := encode(h, nil); !bytes.Equal(again[:12+4*len(h.blocks)], b[:12+4*len(h.blocks)]) {
			t.Errorf("% X is read as %v", b, h)
		}
		if h.fileSize() < h.size() || h.total() < h.length || h.total() > 131072 {
			t.Errorf("%v: size %d of %d, %d blocks", h, h.size(), h.fileSize(), h.total())
		}
		for i, block := range h.blocks {
			if n, ok := h.index(block); !ok || n != i {
				t.Errorf("block %d is found at %d, %v", block, n, ok)
			}
		}
	})
}

const goodManifest = `{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 7653121234567890123,
"Files": [
{ "Path": "backup_label", "Size": 227, "Last-Modified": "2026-11-25 17:26:08 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "e8fa3b21" },
{ "Encoded-Path": "ff", "Size": 0, "Last-Modified": "2026-11-25 17:26:08 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120" }
],
"Manifest-Checksum": "0f"}
`

func TestManifest(t *testing.T) {
	var files []string
	m, err := readManifest(strings.NewReader(goodManifest), func(e fileEntry) error {
		files = append(files, e.path)
		return nil
	})
	if err != nil || m.systemID != 7653121234567890123 || m.version != 2 || len(m.ranges) != 1 || m.ranges[0].End != 0x2000120 {
		t.Errorf("%+v, %v", m, err)
	}
	if diff := cmp.Diff([]string{"backup_label", "\xff"}, files); diff != "" {
		t.Error(diff)
	}
	for _, c := range [][2]string{
		{`"Path": "backup_label"`, `"Path": "../backup_label"`},
		{`"Path": "backup_label"`, `"Path": "/etc/passwd"`},
		{`"Size": 227`, `"Size": -1`},
		{`"e8fa3b21"`, `"xx"`},
		{`-Version": 2`, `-Version": 3`},
		{`"Timeline": 1`, `"Timeline": 0`},
		{`"0/2000120"`, `"0/1"`},
		{`"Files"`, `"Fils"`},
		{`"System-Identifier": 7653121234567890123,`, ""},
		{`{ "Encoded-Path": "ff",`, `{`},
		{"0f", strings.Repeat("0f", 40_000)},
	} {
		bad := strings.Replace(goodManifest, c[0], c[1], 1)
		if _, err := readManifest(strings.NewReader(bad), func(fileEntry) error { return nil }); err == nil {
			t.Errorf("with %q for %q the manifest is accepted", c[1][:min(40, len(c[1]))], c[0])
		}
	}
	for n := range len(goodManifest) - 2 {
		if _, err := readManifest(strings.NewReader(goodManifest[:n]), func(fileEntry) error { return nil }); err == nil {
			t.Errorf("the first %d bytes are accepted", n)
		}
	}
}

// Whatever a manifest says, there is no panic, and no path that leads out of the backup.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(goodManifest))
	f.Add([]byte(`{"PostgreSQL-Backup-Manifest-Version": 1, "Files": [], "WAL-Ranges": [], "Manifest-Checksum": ""}`))
	f.Add([]byte(`{"Files": [{"Path": "a/../../b"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readManifest(bytes.NewReader(b), func(e fileEntry) error {
			if strings.HasPrefix(e.path, "/") || strings.HasPrefix(e.path+"/", "../") || e.size < 0 {
				t.Errorf("the file %q with %d bytes", e.path, e.size)
			}
			return nil
		})
		if err == nil && (len(m.ranges) == 0 || len(m.sum) == 0) {
			t.Errorf("accepted without ranges or a checksum: %+v", m)
		}
		_ = checkManifestSum(bytes.NewReader(b), int64(len(b)), m.sum)
	})
}
