package evidence

import (
	"archive/zip"
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed packfiles
var packFiles embed.FS

// packHead is what pack.json says.
type packHead struct {
	Format     string    `json:"format"`
	Repository string    `json:"repository"`
	Created    time.Time `json:"created"`
	From       time.Time `json:"from,omitzero"`
	To         time.Time `json:"to,omitzero"`
	Logs       []logHead `json:"logs"`
	Findings   []Finding `json:"findings"`
}

// logHead is what pack.json says of the log in a folder.
type logHead struct {
	Folder string    `json:"folder"`
	Origin string    `json:"log"`
	System string    `json:"system,omitempty"`
	Signer string    `json:"signer"`
	Host   string    `json:"host,omitempty"`
	Since  time.Time `json:"since"`
}

// WriteZip writes the pack as a folder of files, with what verifies it.
func (p *Pack) WriteZip(w io.Writer) error {
	z := &zipper{zip: zip.NewWriter(w), at: p.Created}
	h := packHead{PackFormat, p.Repository, p.Created, p.From, p.To, []logHead{}, p.Findings}
	for _, name := range []string{"README.md", "verify.py"} {
		b, err := packFiles.ReadFile("packfiles/" + name)
		if err != nil {
			return err
		}
		z.add(name, b)
	}
	for i, l := range p.Logs {
		folder := fmt.Sprintf("logs/%03d-%.8s", i+1, l.Signer)
		h.Logs = append(h.Logs, logHead{folder, l.Origin, l.System, l.Signer, l.Host, l.Since})
		z.log(folder, l)
	}
	var page bytes.Buffer
	if err := p.WriteHTML(&page); err != nil {
		return err
	}
	z.add("index.html", page.Bytes())
	z.addJSON("pack.json", h)
	return errors.Join(z.err, z.zip.Close())
}

// zipper writes files until the first error.
type zipper struct {
	zip *zip.Writer
	at  time.Time
	err error
}

func (z *zipper) add(name string, content []byte) {
	if z.err != nil {
		return
	}
	f, err := z.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: z.at})
	if err == nil {
		_, err = f.Write(content)
	}
	z.err = err
}

func (z *zipper) addJSON(name string, content any) {
	b, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		z.err = errors.Join(z.err, err)
		return
	}
	z.add(name, append(b, '\n'))
}

func (z *zipper) log(folder string, l PackLog) {
	z.add(folder+"/key.pem", []byte(l.PublicKey))
	z.add(folder+"/key.note", []byte(l.NoteKey+"\n"))
	z.add(folder+"/checkpoint", []byte(l.Checkpoint))
	z.add(folder+"/leaves", []byte(strings.Join(l.Leaves, "\n")+"\n"))
	z.addJSON(folder+"/consistency.json", append([]ConsistencyProof{}, l.Consistency...))
	for _, r := range l.Records {
		z.add(fmt.Sprintf("%s/records/%08d.json", folder, r.Index), []byte(r.Envelope))
		z.addJSON(fmt.Sprintf("%s/proofs/%08d.json", folder, r.Index), r.Proof)
		z.add(fmt.Sprintf("%s/checkpoints/%08d", folder, r.Index), []byte(r.Checkpoint))
	}
}

// maxPackFile bounds a file of a pack that somebody gives us.
const maxPackFile = 256 << 20

// ReadZip reads what WriteZip wrote. Nothing of it is verified.
func ReadZip(r io.ReaderAt, size int64) (*Pack, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, err
	}
	files := map[string]*zip.File{}
	for _, f := range z.File {
		if files[f.Name] != nil {
			return nil, fmt.Errorf("it has %s twice", f.Name)
		}
		files[f.Name] = f
	}
	u := &unzipper{files: files}
	var h packHead
	u.json("pack.json", &h)
	if u.err == nil && h.Format != PackFormat {
		u.err = fmt.Errorf("it is a %q, and not a %q", h.Format, PackFormat)
	}
	p := &Pack{Format: h.Format, Repository: h.Repository, Created: h.Created, From: h.From, To: h.To, Findings: h.Findings}
	for _, l := range h.Logs {
		p.Logs = append(p.Logs, u.log(l))
	}
	return p, u.err
}

// unzipper reads files until the first error.
type unzipper struct {
	files map[string]*zip.File
	err   error
}

func (u *unzipper) read(name string) []byte {
	if u.err != nil {
		return nil
	}
	f := u.files[name]
	if f == nil {
		u.err = fmt.Errorf("it has no %s", name)
		return nil
	}
	r, err := f.Open()
	if err != nil {
		u.err = err
		return nil
	}
	defer r.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(r, maxPackFile+1))
	if err == nil && len(b) > maxPackFile {
		err = errors.New("it is too large")
	}
	if err != nil {
		u.err = fmt.Errorf("read %s: %w", name, err)
	}
	return b
}

func (u *unzipper) json(name string, into any) {
	if b := u.read(name); u.err == nil && json.Unmarshal(b, into) != nil {
		u.err = fmt.Errorf("the JSON in %s cannot be read", name)
	}
}

func (u *unzipper) log(h logHead) PackLog {
	l := PackLog{
		Origin: h.Origin, System: h.System, Signer: h.Signer, Host: h.Host, Since: h.Since,
		PublicKey: string(u.read(h.Folder + "/key.pem")), NoteKey: strings.TrimSuffix(string(u.read(h.Folder+"/key.note")), "\n"),
		Checkpoint: string(u.read(h.Folder + "/checkpoint")), Leaves: strings.Split(strings.TrimSuffix(string(u.read(h.Folder+"/leaves")), "\n"), "\n"),
	}
	u.json(h.Folder+"/consistency.json", &l.Consistency)
	var indexes []uint64
	for name := range u.files {
		number, ok := strings.CutSuffix(path.Base(name), ".json")
		if n, err := strconv.ParseUint(number, 10, 62); ok && err == nil && path.Dir(name) == h.Folder+"/records" {
			indexes = append(indexes, n)
		}
	}
	slices.Sort(indexes)
	for _, n := range indexes {
		r := PackRecord{Index: n, Envelope: string(u.read(fmt.Sprintf("%s/records/%08d.json", h.Folder, n))), Checkpoint: string(u.read(fmt.Sprintf("%s/checkpoints/%08d", h.Folder, n)))}
		u.json(fmt.Sprintf("%s/proofs/%08d.json", h.Folder, n), &r.Proof)
		l.Records = append(l.Records, r)
	}
	return l
}

// ReadJSON reads what JSON wrote. Nothing of it is verified.
func ReadJSON(b []byte) (*Pack, error) {
	var p Pack
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, errors.New("its JSON cannot be read")
	}
	if p.Format != PackFormat {
		return nil, fmt.Errorf("it is a %q, and not a %q", p.Format, PackFormat)
	}
	return &p, nil
}
