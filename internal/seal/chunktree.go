package seal

import (
	"encoding/binary"

	"lukechampine.com/blake3/guts"
)

// A chunk's ID is a BLAKE3 hash, which is the root of a tree over the chunk's bytes. So a part of a chunk can be proven to
// be that part of it without the rest, where it is a subtree, and the values of the other subtrees are told. What is told
// proves nothing else: the value of an inner node may stand for several groups as if they were one, so that the chunk's
// length is not proven, nor that there is nothing behind.

// GroupSize is how many bytes of a chunk are proven together: group g is the bytes from g × GroupSize on. The values of the
// groups are BLAKE3's chaining values (section 2.1 of its paper), ValueSize bytes each, and exist for chunks longer than one
// group.
const (
	GroupSize = 32 << 10
	ValueSize = 32
	MaxGroups = 64 // of a chunk, for what follows

	pieceSize = guts.MaxSIMD * guts.ChunkSize // what is hashed at once: a subtree, too
)

// Groups returns how many groups a chunk of so many bytes has that can be proven apart: 0 where it is not longer than one.
func Groups(size int) int {
	if size <= GroupSize {
		return 0
	}
	return (size + GroupSize - 1) / GroupSize
}

// ChunkTree is ChunkID of a chunk longer than a group, whose groups' values it appends to dst.
func (k *Keyring) ChunkTree(dst []byte, group string, plain []byte) (ChunkID, []byte) {
	key := &k.chunkKey(group).tree
	values := key.groups(plain, len(plain), ^uint64(0), nil)
	for _, v := range values {
		dst = v.append(dst)
	}
	return key.root(values), dst
}

// PartialID returns the ID of a chunk of size bytes, more than a group's, of which plain has the groups whose bits are set in
// have (bit g for group g), one behind the other, while of the others the values are told, ValueSize bytes for each group of
// the chunk. Nothing that is told of a group in have counts. If the ID is the right one, the groups in have are those of the
// chunk, at their places, and nothing more is known.
func (k *Keyring) PartialID(group string, plain []byte, size int, have uint64, told []byte) ChunkID {
	key := &k.chunkKey(group).tree
	return key.root(key.groups(plain, size, have, told))
}

// value is the chaining value of a subtree.
type value [8]uint32

func valueOf(b []byte) (v value) {
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return v
}

func (v value) append(dst []byte) []byte {
	for _, w := range v {
		dst = binary.LittleEndian.AppendUint32(dst, w)
	}
	return dst
}

// treeKey is a key of BLAKE3.
type treeKey [8]uint32

// groups returns the values of a chunk's groups: of those in have by their bytes, of the others as they are told.
func (k *treeKey) groups(plain []byte, size int, have uint64, told []byte) []value {
	values := make([]value, Groups(size))
	for g := range values {
		if at := g * GroupSize; have>>g&1 != 0 {
			n := min(GroupSize, size-at)
			values[g] = k.group(plain[:n], at)
			plain = plain[n:]
		} else {
			values[g] = valueOf(told[g*ValueSize:])
		}
	}
	return values
}

// group returns the value of a group, which begins at the byte at of its chunk.
func (k *treeKey) group(b []byte, at int) value {
	var pieces [GroupSize / pieceSize]value
	n := 0
	for ; len(b) > 0; n++ {
		var whole *[pieceSize]byte
		size := min(len(b), pieceSize)
		if size == pieceSize {
			whole = (*[pieceSize]byte)(b)
		} else {
			whole = new([pieceSize]byte)
			copy(whole[:], b)
		}
		node := guts.CompressBuffer(whole, size, (*[8]uint32)(k), uint64(at/guts.ChunkSize), guts.FlagKeyedHash)
		pieces[n] = guts.ChainingValue(node)
		b, at = b[size:], at+size
	}
	if n == 1 {
		return pieces[0]
	}
	return guts.ChainingValue(k.parent(pieces[:n]))
}

// root returns the hash of a chunk whose groups, at least two, have these values.
func (k *treeKey) root(values []value) ChunkID {
	node := k.parent(values)
	node.Flags |= guts.FlagRoot
	return ChunkID(value(guts.ChainingValue(node)).append(nil))
}

// parent returns the node above at least two subtrees of equal size, of which the last one may be smaller: its left child
// has the greatest power of two of them that leaves something for the right one.
func (k *treeKey) parent(values []value) guts.Node {
	left := 1
	for 2*left < len(values) {
		left *= 2
	}
	return guts.ParentNode(k.child(values[:left]), k.child(values[left:]), (*[8]uint32)(k), guts.FlagKeyedHash)
}

func (k *treeKey) child(values []value) value {
	if len(values) == 1 {
		return values[0]
	}
	return guts.ChainingValue(k.parent(values))
}
