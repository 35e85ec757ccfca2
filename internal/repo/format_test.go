package repo

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"lukechampine.com/blake3"
	"lukechampine.com/blake3/guts"
)

// stranger is a reader that was written from docs/format/repository-v1.md alone. It decodes with nothing of this
// package or of seal; it may panic, since it is a test.
type stranger struct {
	objects map[string][]byte
	id      string
	secrets [][]byte
	places  map[string]strangerPlace
}

type strangerPlace struct {
	pack, group            string
	header                 []byte
	offset, stored, length uint32
	encoding               byte
	head                   uint32
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (s *stranger) names(prefix string) (out []string) {
	for n := range s.objects {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (s *stranger) json(b []byte, into any) {
	if err := json.Unmarshal(b, into); err != nil {
		panic(err)
	}
}

// unlock is section 2.
func (s *stranger) unlock(pass string, ids ...age.Identity) {
	var marker struct {
		Format  string
		Version int
		ID      string
	}
	s.json(s.objects["holdfast.json"], &marker)
	if marker.Format != "holdfast-repository" || marker.Version != 1 {
		panic("unknown format")
	}
	s.id = marker.ID
	var epoch struct {
		Epoch             uint32
		Generation, Check string
	}
	s.json(s.objects[slices.Max(s.names("epochs/"+s.id+"/"))], &epoch)
	for _, n := range s.names("keys/" + s.id + "/" + epoch.Generation + "/") {
		var slot struct{ Kind, Identity, Keyring string }
		s.json(s.objects[n], &slot)
		try := ids
		if slot.Kind == "passphrase" && pass != "" {
			r, err := age.Decrypt(bytes.NewReader(must(hex.DecodeString(slot.Identity))), must(age.NewScryptIdentity(pass)))
			if err != nil {
				continue
			}
			try = []age.Identity{must(age.ParseX25519Identity(string(must(io.ReadAll(r)))))}
		}
		if len(try) == 0 {
			continue
		}
		r, err := age.Decrypt(bytes.NewReader(must(base64.StdEncoding.DecodeString(slot.Keyring))), try...)
		if err != nil {
			continue
		}
		var ring struct {
			Repository string
			Epochs     []struct{ Secret string }
		}
		s.json(must(io.ReadAll(r)), &ring)
		for _, e := range ring.Epochs {
			s.secrets = append(s.secrets, must(hex.DecodeString(e.Secret)))
		}
		own := hex.EncodeToString(must(hkdf.Key(sha256.New, s.secrets[0], nil, "holdfast/v1/repository-id", 32))[:16])
		check := hex.EncodeToString(s.derive(s.secrets[epoch.Epoch-1], "holdfast/v1/epoch-check")[:16])
		if own != s.id || ring.Repository != s.id || check != epoch.Check {
			panic("the keyring is of another repository")
		}
		return
	}
	panic("no slot opens")
}

func (s *stranger) derive(secret []byte, context string) []byte {
	return must(hkdf.Key(sha256.New, secret, []byte(s.id), context, 32))
}

func keyed(key, b []byte, size int) []byte {
	h := blake3.New(size, key)
	h.Write(b) //nolint:errcheck // a hash never fails
	return h.Sum(nil)
}

func (s *stranger) nameHash(name string) string {
	return hex.EncodeToString(keyed(s.derive(s.secrets[0], "holdfast/v1/name"), []byte(name), 16))
}

// frame is section 3.
func (s *stranger) frame(name string, header, sealed []byte, p uint64) []byte {
	if string(header[:4]) != "HFO1" {
		panic("not sealed: " + name)
	}
	info := "holdfast/v1/object\x00" + string(header[4:5]) + "\x00" + s.id + "\x00" + name
	key := must(hkdf.Key(sha256.New, s.secrets[binary.LittleEndian.Uint32(header[8:])-1], header[12:44], info, 32))
	gcm := must(cipher.NewGCM(must(aes.NewCipher(key))))
	nonce := binary.LittleEndian.AppendUint64(nil, p)
	return must(gcm.Open(nil, append(nonce, 0, 0, 0, 0), sealed, nil))
}

func (s *stranger) open(name string, kind byte) []byte {
	b, ok := s.objects[name]
	if !ok || b[4] != kind {
		panic("missing or of another kind: " + name)
	}
	return s.frame(name, b[:44], b[44:], 44)
}

// readIndex is section 5.
func (s *stranger) readIndex() {
	s.places = map[string]strangerPlace{}
	d, highest := "00000000", ""
	for _, n := range s.names("collections/") {
		switch base := path.Base(n); {
		case strings.HasSuffix(n, ".done"):
			d = strings.TrimSuffix(base, ".done")
		case len(base) == 8:
			highest = base
		}
	}
	var names []string
	if d != "00000000" && highest <= d {
		var done struct{ Index []string }
		s.json(s.open("collections/"+d+".done", 6), &done)
		names = append(names, done.Index...)
	}
	if highest > d {
		var p struct{ Known, Prepared []string }
		s.json(s.open("collections/"+highest, 6), &p)
		for _, n := range append(p.Known, p.Prepared...) {
			if strings.HasPrefix(n, "base/") {
				names = append(names, n)
			}
		}
		d = fmt.Sprintf("%08x", must(strconv.ParseUint(highest, 16, 32))-1)
	}
	for _, n := range s.names("index/") {
		if path.Base(n)[:8] >= d {
			names = append(names, n)
		}
	}
	for _, n := range names {
		s.readIndexObject(s.open(n, 2))
	}
}

func (s *stranger) readIndexObject(b []byte) {
	u32 := binary.LittleEndian.Uint32
	if u32(b) != 1 {
		panic("unknown version of the index")
	}
	packs, chunks := b[12:], b[12+88*u32(b[4:]):]
	for range u32(b[8:]) {
		pack := packs[88*u32(chunks[48:]):][:88]
		id := hex.EncodeToString(pack[32:48])
		group := strings.TrimRight(string(pack[:32]), "\x00")
		header := append([]byte("HFO1\x01\x00\x00\x00"), pack[48:84]...)
		s.places[string(chunks[:32])] = strangerPlace{
			"packs/" + group + "/" + id[:2] + "/" + id, group, header, u32(chunks[32:]), u32(chunks[36:]), u32(chunks[40:]), chunks[44], u32(chunks[44:]) >> 8,
		}
		chunks = chunks[52:]
	}
}

// chunk is section 4.
func (s *stranger) chunk(id []byte) []byte {
	p, ok := s.places[string(id)]
	if !ok {
		panic(fmt.Sprintf("chunk %x is in no index", id))
	}
	at, groups := p.offset, (p.length+32767)/32768
	frame := func(length uint32) []byte {
		at += length
		return s.frame(p.pack, p.header, s.objects[p.pack][at-length:at], uint64(at-length))
	}
	var plain []byte
	switch p.encoding {
	case 0:
		plain = frame(p.stored)
	case 1:
		plain = must(must(zstd.NewReader(nil)).DecodeAll(frame(p.stored), nil))
	case 200: // a test's codec: its head is the lengths of the groups, and these are as they are, but for a mask
		if groups == 1 {
			plain = frame(p.stored)[4:]
		} else {
			head := frame(p.head + 16)
			var values [][8]uint32
			for g := range groups {
				var v [8]uint32
				for i := range v {
					v[i] = binary.LittleEndian.Uint32(head[32*int(g)+4*i:])
				}
				values = append(values, v)
				plain = append(plain, frame(binary.LittleEndian.Uint32(head[32*groups+4*g:])+16)...)
			}
			if !bytes.Equal(combined(s.derive(s.secrets[0], "holdfast/v1/chunk-id/"+p.group), values), id) {
				panic("the values of the groups are those of another chunk")
			}
		}
		for i := range plain {
			plain[i] ^= 0x5A
		}
		if at != p.offset+p.stored {
			panic("a chunk of another length")
		}
	default:
		panic("a codec of an engine")
	}
	if len(plain) != int(p.length) || !bytes.Equal(keyed(s.derive(s.secrets[0], "holdfast/v1/chunk-id/"+p.group), plain, 32), id) {
		panic("the chunk is another one")
	}
	return plain
}

// combined is the end of section 4's part on groups.
func combined(key []byte, values [][8]uint32) []byte {
	var words [8]uint32
	for i := range words {
		words[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	var parent func(values [][8]uint32) guts.Node
	child := func(values [][8]uint32) [8]uint32 {
		if len(values) == 1 {
			return values[0]
		}
		return guts.ChainingValue(parent(values))
	}
	parent = func(values [][8]uint32) guts.Node {
		left := 1 << (bits.Len(uint(len(values)-1)) - 1)
		return guts.ParentNode(child(values[:left]), child(values[left:]), &words, guts.FlagKeyedHash)
	}
	root := parent(values)
	root.Flags |= guts.FlagRoot
	var out []byte
	for _, w := range guts.ChainingValue(root) {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// directoryAgrees reads a pack's own directory (section 4) and compares it with the index.
func (s *stranger) directoryAgrees(name string) bool {
	b := s.objects[name]
	if string(b[len(b)-4:]) != "HFPE" {
		return false
	}
	at := len(b) - 8 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	dir := s.frame(name, b[:44], b[at:len(b)-8], uint64(at)+1<<62)
	for ; len(dir) > 0; dir = dir[48:] {
		p := s.places[string(dir[:32])]
		if p.pack == name && p.offset != binary.LittleEndian.Uint32(dir[32:]) {
			return false
		}
	}
	return true
}

// signed is the first part of section 7.
func (s *stranger) signed(b []byte, purpose string) []byte {
	n := binary.LittleEndian.Uint32(b)
	body, signature := b[4:4+n], b[4+n:]
	var by struct{ Signer string }
	s.json(body, &by)
	var signer struct{ Public []byte }
	s.json(s.open("signers/"+by.Signer, 10), &signer)
	sum := sha256.Sum256(signer.Public)
	message := append([]byte("holdfast/v1/sign/"+purpose+"\x00"), body...)
	if hex.EncodeToString(sum[:16]) != by.Signer || !ed25519.Verify(signer.Public, message, signature) {
		panic("not his signature")
	}
	return body
}

// snapshot returns the files of a snapshot: sections 6 and 7.
func (s *stranger) snapshot(name string) files {
	b := s.open(name, 3)
	if bytes.Contains(b, []byte(`"tombstone":`)) {
		return nil
	}
	var m struct {
		Version int
		Root    string
	}
	s.json(s.signed(b, "snapshot"), &m)
	fs := files{}
	s.node(must(hex.DecodeString(m.Root)), fs)
	return fs
}

// node returns how large the files below are.
func (s *stranger) node(id []byte, fs files) (size int) {
	b := s.chunk(id)
	version, level, n := b[0], b[1], binary.LittleEndian.Uint32(b[4:])
	b = b[8:]
	for range n {
		k := binary.LittleEndian.Uint16(b)
		key := string(b[2 : 2+k])
		b = b[2+k:]
		v := binary.LittleEndian.Uint32(b)
		value := b[4 : 4+v]
		b = b[4+v:]
		if level == 0 {
			fs[key] = s.file(value)
			size += len(fs[key])
			continue
		}
		below := s.node(value[:32], fs)
		if version == 2 && int(binary.LittleEndian.Uint64(value[32:])) != below {
			panic("the files below a node have another size")
		}
		size += below
	}
	return size
}

func (s *stranger) file(e []byte) []byte {
	content := make([]byte, 0, binary.LittleEndian.Uint64(e[16:]))
	for i := range int(binary.LittleEndian.Uint32(e[24:])) {
		id := e[32+32*i:][:32]
		if e[2] == 0 {
			content = append(content, s.chunk(id)...)
			continue
		}
		rest := int(binary.LittleEndian.Uint64(e[16:])) - len(content)
		content = append(content, s.part(s.chunk(id), min(rest, 256*512<<10))...)
	}
	if len(content) != int(binary.LittleEndian.Uint64(e[16:])) {
		panic("the file has another size")
	}
	return content
}

// part is the content of a list, of size bytes.
func (s *stranger) part(list []byte, size int) (content []byte) {
	k := int(binary.LittleEndian.Uint16(list[2:]))
	if list[0] == 1 {
		for j := range k {
			content = append(content, s.chunk(list[4+32*j:][:32])...)
		}
		return content
	}
	content = make([]byte, k*512<<10)
	zero := string(make([]byte, 32))
	if base := list[4:36]; string(base) != zero {
		b := s.chunk(base)
		if int(binary.LittleEndian.Uint16(b[2:])) > k {
			panic("the base is longer than the list")
		}
		for j := range int(binary.LittleEndian.Uint16(b[2:])) {
			copy(content[j*512<<10:], s.chunk(b[4+32*j:][:32]))
		}
	}
	if older := list[36:68]; string(older) != zero {
		b := s.chunk(older)
		if b[0] != 2 || b[1] != 1 {
			panic("not a table")
		}
		s.table(b[2:], func(page int, b []byte) {
			if c := page / 64; c < k && list[68+c/8]&(1<<(c%8)) == 0 {
				copy(content[page*8192:], b)
			}
		})
	}
	s.table(list[100:], func(page int, b []byte) {
		if page*8192 >= size {
			panic("a page is patched that is not there")
		}
		copy(content[page*8192:], b)
	})
	return content[:size]
}

func (s *stranger) table(b []byte, fn func(page int, b []byte)) {
	seen := map[uint16]bool{}
	units := binary.LittleEndian.Uint16(b)
	b = b[2:]
	for range units {
		unit, n := s.chunk(b[:32]), int(binary.LittleEndian.Uint16(b[33:]))
		if len(unit) != int(b[32])*8192 {
			panic("a unit has another length")
		}
		for b = b[35:]; n > 0; n, b = n-1, b[3:] {
			page := binary.LittleEndian.Uint16(b)
			if seen[page] {
				panic("a page is patched twice")
			}
			seen[page] = true
			fn(int(page), unit[int(b[2])*8192:][:8192])
		}
	}
	if len(b) > 0 {
		panic("something follows the table")
	}
}

// extent is section 8. Its list is told as text: replica, position, site.
func (s *stranger) extent(name string) (start uint64, data []byte, list []string) {
	b := s.open(name, 7)
	n := 36 + int(binary.LittleEndian.Uint16(b[2:]))
	if (b[0] != 1 || n > 36) && (b[0] != 2 || n == 36) {
		panic("an extent has a list against its version")
	}
	for e := b[36:n]; len(e) > 0; e = e[25+int(e[24]):] {
		list = append(list, fmt.Sprintf("%x %x %s", e[:16], binary.LittleEndian.Uint64(e[16:]), e[25:25+int(e[24])]))
	}
	switch data = b[n:]; b[1] {
	case 1:
		data = must(must(zstd.NewReader(nil)).DecodeAll(data, nil))
	case 2, 3:
		blocks := data
		for data = nil; len(blocks) > 0; {
			n := binary.LittleEndian.Uint32(blocks)
			if block := blocks[4 : 4+n]; b[1] == 2 {
				data = append(data, must(s2.Decode(nil, block))...)
			} else {
				data = append(data, must(must(zstd.NewReader(nil)).DecodeAll(block, nil))...)
			}
			blocks = blocks[4+n:]
		}
	}
	return binary.LittleEndian.Uint64(b[4:]), data, list
}
