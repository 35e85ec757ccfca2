package evidence

import (
	"fmt"
	"html/template"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// page is parsed once it is needed: most commands show none.
var page = sync.OnceValues(func() (*template.Template, error) {
	return template.New("page.html.tmpl").Funcs(template.FuncMap{
		"time":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"seconds": seconds,
		"figure":  Figure.String,
		"hash":    func(r PackRecord) string { return fmt.Sprintf("%x", leafOf([]byte(r.Envelope))) },
		"about": func(system string) string {
			if system == "" {
				return "the repository"
			}
			return "system " + system
		},
	}).ParseFS(packFiles, "packfiles/page.html.tmpl")
})

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}

// String returns value and unit for people.
func (f Figure) String() string {
	switch f.Unit {
	case "s":
		return seconds(f.Value)
	case "bytes":
		return dr.Bytes(f.Value).String()
	case "1":
		return strconv.FormatFloat(f.Value, 'f', -1, 64)
	}
	return strconv.FormatFloat(f.Value, 'f', -1, 64) + " " + f.Unit
}

// WriteHTML writes the pack as a page that needs nothing else.
func (p *Pack) WriteHTML(w io.Writer) error {
	t, err := page()
	if err != nil {
		return err
	}
	return t.Execute(w, p)
}
