// Package tree is the order of objects in stores that keep them as files in directories, and what of a directory a
// listing needs. It reads nothing itself.
package tree

import (
	"strings"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Selection is what a listing wants: the names that begin with Prefix and are greater than After.
type Selection struct{ Prefix, After string }

// Dir returns the directory with which the listing begins: "", or a name that ends in a slash.
func (s Selection) Dir() string { return s.Prefix[:strings.LastIndexByte(s.Prefix, '/')+1] }

// Directory tells whether the directory elem of dir can hold wanted objects. Its key sorts it among the others of
// dir: it ends in a slash, so that x.y comes before x/y, as in the order of whole names ('.' < '/'), and not after
// it, as in the order of elements. dir is "" or ends in a slash.
func (s Selection) Directory(dir, elem string) (key string, wanted bool) {
	name := dir + elem
	if store.CheckName(name) != nil {
		return "", false // lost+found
	}
	name += "/"
	within := strings.HasPrefix(name, s.Prefix) || strings.HasPrefix(s.Prefix, name)
	return elem + "/", within && (name > s.After || strings.HasPrefix(s.After, name))
}

// Object tells whether the file elem of dir is a wanted object.
func (s Selection) Object(dir, elem string) bool {
	name := dir + elem
	return strings.HasPrefix(name, s.Prefix) && name > s.After && store.CheckName(name) == nil
}

// Stopped carries an error of a listing's caller past the store's own, which name the store.
type Stopped struct{ Err error }

func (e *Stopped) Error() string { return e.Err.Error() }
