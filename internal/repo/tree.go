package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// A tree is a sorted map from path to entry. Its nodes are chunks. Where a node ends is decided by its last
// key alone (and by a bound on size), so that trees that differ in few entries share all other nodes: what a
// snapshot adds is proportional to what changed. (A prolly tree; docs/format/repository-v1.md, section 6.) Inner nodes also
// say how large the files below each child are: that is how one byte of all is found without a walk (Sample).
const (
	maxLevel = 12
	maxKey   = 4096
)

// Versions of nodes, and how long the values of inner nodes are.
const (
	nodePlain = 1 // leaves, and inner nodes of holdfasts that did not write sizes
	nodeSized = 2

	plainRef = 32
	sizedRef = 32 + 8
)

// splitRule says where nodes end.
type splitRule struct {
	mask uint32 // after a key whose hash has none of these bits
	size int    // or when it has more bytes
}

// theSplit ends a node after one key in 64. It is part of no format, but whoever changes it stores every tree again.
var theSplit = splitRule{mask: 1<<6 - 1, size: 256 << 10}

// treeBuilder builds a tree from entries in ascending order of paths, keeping one node per level in memory.
type treeBuilder struct {
	save   func(plain []byte) (seal.ChunkID, error)
	split  splitRule
	levels []*nodeBuilder
	last   string
}

type nodeBuilder struct {
	buf   []byte
	count int
	size  int64 // of the files below
	last  string
}

func (t *treeBuilder) add(path string, value []byte) error {
	if path == "" || len(path) > maxKey || path <= t.last {
		return fmt.Errorf("path %q does not sort after %q", path, t.last)
	}
	size, err := sizeOfEntry(value)
	if err != nil {
		return err
	}
	t.last = path
	return t.put(0, path, value, size)
}

// putRef puts a reference to a node of the level below.
func (t *treeBuilder) putRef(level int, last string, id seal.ChunkID, size int64) error {
	return t.put(level, last, binary.LittleEndian.AppendUint64(id[:], uint64(size)), size)
}

func (t *treeBuilder) put(level int, key string, value []byte, size int64) error {
	if level == len(t.levels) {
		t.levels = append(t.levels, &nodeBuilder{})
	}
	n := t.levels[level]
	n.buf = binary.LittleEndian.AppendUint16(n.buf, uint16(len(key)))
	n.buf = append(n.buf, key...)
	n.buf = binary.LittleEndian.AppendUint32(n.buf, uint32(len(value)))
	n.buf = append(n.buf, value...)
	n.count, n.size, n.last = n.count+1, n.size+size, key
	// A node of one child would not bring the levels to an end.
	if (t.split.after(key, level) && n.count > 1) || len(n.buf) > t.split.size {
		return t.close(level)
	}
	return nil
}

// close stores the open node of a level and puts its reference into the level above.
func (t *treeBuilder) close(level int) error {
	n := t.levels[level]
	if n.count == 0 {
		return nil
	}
	id, err := t.save(n.marshal(level))
	if err != nil {
		return err
	}
	last, size := n.last, n.size
	n.buf, n.count, n.size = n.buf[:0], 0, 0
	return t.putRef(level+1, last, id, size)
}

func (n *nodeBuilder) marshal(level int) []byte {
	version := byte(nodePlain)
	if level > 0 {
		version = nodeSized
	}
	b := append(make([]byte, 0, 8+len(n.buf)), version, byte(level), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(n.count))
	return append(b, n.buf...)
}

// finish returns the root's ID.
func (t *treeBuilder) finish() (seal.ChunkID, error) {
	if len(t.levels) == 0 {
		return t.save((&nodeBuilder{}).marshal(0))
	}
	for level := 0; ; level++ {
		top := level == len(t.levels)-1
		n := t.levels[level]
		switch {
		case top && level > 0 && n.count == 1:
			// One child: that is the root. Its ID is the entry's value.
			return seal.ChunkID(n.buf[len(n.buf)-sizedRef:]), nil
		case top:
			return t.save(n.marshal(level))
		}
		if err := t.close(level); err != nil {
			return seal.ChunkID{}, err
		}
	}
}

// after decides by the key where nodes end. The level is hashed too: otherwise a key that ends a node
// would end one at every level.
func (s splitRule) after(key string, level int) bool {
	h := fnv.New32a()
	h.Write([]byte{byte(level)}) //nolint:errcheck // a hash never fails
	h.Write([]byte(key))         //nolint:errcheck // a hash never fails
	v := h.Sum32()
	v ^= v >> 16 // FNV's low bits follow the last byte closely; fold the high ones in
	return v&s.mask == 0
}

type node struct {
	level  int
	sized  bool // it is an inner node whose values tell sizes
	keys   []string
	values [][]byte // entries, or the IDs of nodes with what is known of their size
}

func parseNode(b []byte) (*node, error) {
	if len(b) < 8 || b[0] != nodePlain && (b[0] != nodeSized || b[1] == 0) || b[2] != 0 || b[3] != 0 {
		return nil, errors.New("a tree node has an unknown form")
	}
	n := &node{level: int(b[1]), sized: b[0] == nodeSized}
	ref := uint64(plainRef)
	if n.sized {
		ref = sizedRef
	}
	count := binary.LittleEndian.Uint32(b[4:])
	if n.level > maxLevel {
		return nil, errors.New("a tree is too deep")
	}
	b = b[8:]
	for range count {
		if len(b) < 2 {
			return nil, errors.New("a tree node is cut off")
		}
		k := int(binary.LittleEndian.Uint16(b))
		if b = b[2:]; k == 0 || k > maxKey || len(b) < k+4 {
			return nil, errors.New("a tree node is cut off")
		}
		key, v := string(b[:k]), uint64(binary.LittleEndian.Uint32(b[k:]))
		if b = b[k+4:]; uint64(len(b)) < v || (n.level > 0 && v != ref) {
			return nil, errors.New("a tree node is cut off")
		}
		if len(n.keys) > 0 && key <= n.keys[len(n.keys)-1] {
			return nil, errors.New("a tree node is not sorted")
		}
		n.keys, n.values = append(n.keys, key), append(n.values, append([]byte(nil), b[:v]...))
		b = b[v:]
	}
	if len(b) != 0 {
		return nil, errors.New("a tree node has bytes left over")
	}
	return n, nil
}

// child returns the ID of the node that item i of an inner node names.
func (n *node) child(i int) seal.ChunkID { return seal.ChunkID(n.values[i]) }

// size returns how large the files of item i are; false where an inner node does not tell.
func (n *node) size(i int) (int64, bool, error) {
	var size int64
	var err error
	switch {
	case n.level == 0:
		size, err = sizeOfEntry(n.values[i])
	case !n.sized:
		return 0, false, nil
	default:
		size = int64(binary.LittleEndian.Uint64(n.values[i][plainRef:]))
	}
	if err == nil && (size < 0 || size > maxTreeSize) {
		err = fmt.Errorf("a tree node says that the files of %q have %d bytes", n.keys[i], size)
	}
	return size, true, err
}

// total returns how large the files below a node are; false where it does not tell.
func (n *node) total() (sum int64, known bool, err error) {
	for i := range n.keys {
		size, known, err := n.size(i)
		if err != nil || !known {
			return 0, false, err
		}
		sum += size
	}
	return sum, true, nil
}

// maxTreeSize keeps sums of sizes within 63 bits, however many items a damaged node has.
const maxTreeSize = 1 << 56

func (rd *Reader) node(ctx context.Context, id seal.ChunkID) (*node, error) {
	if n := rd.r.nodes.get(id); n != nil {
		return n, nil
	}
	b, err := rd.Chunk(ctx, id)
	if err != nil {
		return nil, err
	}
	n, err := parseNode(b)
	if err != nil {
		return nil, &ChunkError{ID: id, Pack: "tree", Err: err}
	}
	rd.r.nodes.put(id, n, len(b))
	return n, nil
}
