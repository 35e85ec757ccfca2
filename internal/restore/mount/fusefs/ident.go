package fusefs

import (
	"encoding/binary"
	"errors"

	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
)

// Attribute is the extended attribute that says which of the snapshot's files a file is.
const Attribute = "user.holdfast"

const identVersion = 1

// Marshal returns the attribute's value: version (1), number (4) and size (8), little-endian, and the path.
func Marshal(id layer.Ident) []byte {
	b := []byte{identVersion}
	b = binary.LittleEndian.AppendUint32(b, id.ID)
	b = binary.LittleEndian.AppendUint64(b, uint64(id.Size))
	return append(b, id.Path...)
}

// Unmarshal reads an attribute's value.
func Unmarshal(b []byte) (id layer.Ident, err error) {
	if len(b) < 14 || b[0] != identVersion {
		return id, errors.New("its attribute " + Attribute + " is of an unknown form")
	}
	id = layer.Ident{ID: binary.LittleEndian.Uint32(b[1:]), Size: int64(binary.LittleEndian.Uint64(b[5:])), Path: string(b[13:])}
	if id.Size < 0 {
		err = errors.New("its attribute " + Attribute + " has a negative size")
	}
	return id, err
}
