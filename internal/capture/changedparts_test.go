package capture

import "testing"

// Whatever a part has to store, its units are neither tiny nor larger than the buffer, and no page or two are left that
// would be gathered with those of the next part.
func TestUnitSize(t *testing.T) {
	for pages := 1; pages < pagesOfPart; pages++ {
		for left := pages; left > 0; {
			full := unitSize(left)
			if full < pagesOfUnit*3/4 || full >= mostOfUnit {
				t.Fatalf("%d of %d pages go into units of %d", left, pages, full)
			}
			if left < pagesWorthAUnit && left < pages {
				t.Fatalf("of %d pages %d are left", pages, left)
			}
			left -= min(full, left)
		}
	}
}
