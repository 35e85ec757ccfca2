package layer

// Finish makes files whole all of whose pages are local, and returns how many bytes those have that now are; a file must not be named
// twice.
func (l *Layer) Finish(files ...*File) (bytes int64, err error) {
	var whole []*File
	for _, f := range files {
		if err := f.usable(); err != nil {
			return 0, err
		}
		if f.isWhole.Load() {
			continue
		}
		f.syncing.Lock()
		defer f.syncing.Unlock()
		if f.allLocal() {
			whole = append(whole, f)
		}
	}
	// Nothing of them becomes local any more. What is written from here on is synced by whoever writes it, or was not to be durable.
	if l.journal != nil {
		ids := make([]uint32, len(whole))
		for i, f := range whole {
			if err := f.syncBacking(); err != nil {
				return 0, err
			}
			ids[i] = f.id.ID
		}
		if err := l.journal.setWhole(ids); err != nil {
			return 0, err
		}
	}
	for _, f := range whole {
		f.isWhole.Store(true)
		bytes += f.id.Size
		f.mu.Lock()
		f.pending, f.owes = map[int]uint64{}, false
		f.mu.Unlock()
	}
	return bytes, nil
}

// allLocal tells whether all pages below the limit are local.
func (f *File) allLocal() bool {
	for chunk := range f.bits {
		if f.Missing(chunk) != 0 {
			return false
		}
	}
	return true
}
