// Command main verifies a log's folder, checkpoints and receipts with the packages of Go's own module database.
//
// It shares no code with what wrote them: notes are opened by golang.org/x/mod/sumdb/note, and hashes are computed and
// proofs checked by golang.org/x/mod/sumdb/tlog. What is read here is only the spelling of the C2SP files: tile paths,
// entry bundles, checkpoint bodies, cosignatures and receipts.
//
//	main verify -log DIR -key VKEY [-witness VKEY]... [-quorum N] [-receipt FILE -entry FILE]...
//	            [-earlier CHECKPOINT -consistency FILE]
//	main sign -key PRIVATEKEY < TEXT > NOTE
//
// It exits with 0 when everything verifies, with 1 when something does not, and with 2 when it is called wrongly.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: main verify|sign")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "verify":
		err = verify(os.Args[2:])
	case "sign":
		err = sign(os.Args[2:])
	default:
		fmt.Fprintln(os.Stderr, "usage: main verify|sign")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func sign(arguments []string) error {
	flags := flag.NewFlagSet("sign", flag.ExitOnError)
	key := flags.String("key", "", "private key")
	flags.Parse(arguments)
	signer, err := note.NewSigner(*key)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	message, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(message)
	return err
}

func verify(arguments []string) error {
	var keys, witnessKeys, receipts, entries list
	flags := flag.NewFlagSet("verify", flag.ExitOnError)
	dir := flags.String("log", "", "folder of the log")
	flags.Var(&keys, "key", "verifier key of the log")
	flags.Var(&witnessKeys, "witness", "verifier key of a witness")
	quorum := flags.Int("quorum", 0, "witnesses that must have cosigned")
	flags.Var(&receipts, "receipt", "receipt file")
	flags.Var(&entries, "entry", "file of the entry that the receipt of the same place is of")
	earlier := flags.String("earlier", "", "earlier checkpoint file")
	consistency := flags.String("consistency", "", "file with one base64 hash a line")
	flags.Parse(arguments)

	log, witnesses, err := verifiers(keys, witnessKeys)
	if err != nil {
		return err
	}
	message, err := os.ReadFile(filepath.Join(*dir, "checkpoint"))
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(message, log)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := requireQuorum(message, witnesses, *quorum); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	all, tiles, err := checkFolder(*dir, tree)
	if err != nil {
		return err
	}
	if len(receipts) != len(entries) {
		return errors.New("as many receipts as entries are needed")
	}
	for i := range receipts {
		if err := checkReceipt(receipts[i], entries[i], log, witnesses, *quorum); err != nil {
			return fmt.Errorf("receipt %s: %w", filepath.Base(receipts[i]), err)
		}
	}
	if *earlier != "" {
		if err := checkConsistency(*earlier, *consistency, tree, all, log); err != nil {
			return fmt.Errorf("consistency: %w", err)
		}
	}
	fmt.Printf("verified %d entries, %d tiles, %d receipts\n", tree.N, tiles, len(receipts))
	return nil
}

func verifiers(keys, witnessKeys list) (log note.Verifiers, witnesses []note.Verifier, err error) {
	var known []note.Verifier
	for _, key := range keys {
		v, err := note.NewVerifier(key)
		if err != nil {
			return nil, nil, err
		}
		known = append(known, v)
	}
	for _, key := range witnessKeys {
		v, err := newWitness(key)
		if err != nil {
			return nil, nil, err
		}
		witnesses = append(witnesses, v)
	}
	return note.VerifierList(known...), witnesses, nil
}

// witness verifies timestamped Ed25519 cosignatures, which golang.org/x/mod does not know.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newWitness(text string) (*witness, error) {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("malformed witness key")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(data) != 33 || data[0] != 4 {
		return nil, errors.New("malformed witness key")
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), data...))
	if fmt.Sprintf("%x", sum[:4]) != parts[1] {
		return nil, errors.New("witness key with a wrong id")
	}
	return &witness{parts[0], binary.BigEndian.Uint32(sum[:4]), ed25519.PublicKey(data[1:])}, nil
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }
func (w *witness) Verify(message, signature []byte) bool {
	if len(signature) != 72 {
		return false
	}
	time := binary.BigEndian.Uint64(signature)
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, message)
	return ed25519.Verify(w.key, []byte(signed), signature[8:])
}

func requireQuorum(message []byte, witnesses []note.Verifier, quorum int) error {
	if quorum == 0 {
		return nil
	}
	opened, err := note.Open(message, note.VerifierList(witnesses...))
	if err != nil {
		return err
	}
	if len(opened.Sigs) < quorum {
		return fmt.Errorf("%d of %d witnesses", len(opened.Sigs), quorum)
	}
	return nil
}

func openCheckpoint(message []byte, known note.Verifiers) (tlog.Tree, error) {
	opened, err := note.Open(message, known)
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != opened.Sigs[0].Name {
		return tlog.Tree{}, errors.New("malformed checkpoint, or one of another log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 1 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, errors.New("malformed size")
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// hashes are all hashes of a tree, in the order of tlog.StoredHashIndex, computed from its leaves.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	read := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index < 0 || index >= int64(len(h)) {
			return nil, errors.New("outside the tree")
		}
		read[i] = h[index]
	}
	return read, nil
}

// leafHashes reads the tiles of level 0, whose paths C2SP spells without the height.
func leafHashes(dir string, size int64) ([]tlog.Hash, error) {
	var leaves []tlog.Hash
	for n := int64(0); n<<height < size; n++ {
		tile := tlog.Tile{H: height, L: 0, N: n, W: 1 << height}
		if rest := size - n<<height; rest < 1<<height {
			tile.W = int(rest)
		}
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s: wrong length", path)
		}
		for ; len(data) > 0; data = data[tlog.HashSize:] {
			var leaf tlog.Hash
			copy(leaf[:], data)
			leaves = append(leaves, leaf)
		}
	}
	return leaves, nil
}

// checkFolder checks that the leaves lead to the checkpoint's root, that every other tile file follows from them, and
// that every entry is there and has its leaf's hash. It computes everything from the leaves instead of trusting
// tlog.TileHashReader, which in golang.org/x/mod v0.7.0 leaves some tiles unauthenticated when many are read at once.
func checkFolder(dir string, tree tlog.Tree) (hashes, int, error) {
	leaves, err := leafHashes(dir, tree.N)
	if err != nil {
		return nil, 0, err
	}
	var all hashes
	for i, leaf := range leaves {
		more, err := tlog.StoredHashesForRecordHash(int64(i), leaf, all)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, more...)
	}
	root, err := tlog.TreeHash(tree.N, all)
	if err != nil {
		return nil, 0, err
	}
	if root != tree.Hash {
		return nil, 0, errors.New("the leaves lead to another root than the checkpoint's")
	}
	tiles := map[string]bool{}
	bundled := make([]bool, tree.N)
	err = filepath.WalkDir(filepath.Join(dir, "tile"), func(path string, file fs.DirEntry, err error) error {
		if err != nil || file.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		if rest := strings.TrimPrefix(relative, "tile/entries/"); rest != relative {
			return checkBundle(relative, rest, data, leaves, bundled)
		}
		tile, err := tlog.ParseTilePath("tile/8/" + strings.TrimPrefix(relative, "tile/"))
		if err != nil {
			return err
		}
		want, err := tlog.ReadTileData(tile, all)
		if err != nil {
			return fmt.Errorf("%s: %w", relative, err)
		}
		if !bytes.Equal(data, want) {
			return fmt.Errorf("%s: other hashes than follow from the leaves", relative)
		}
		tiles[tile.Path()] = true
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	for i, there := range bundled {
		if !there {
			return nil, 0, fmt.Errorf("entry %d is missing", i)
		}
	}
	// Of the partial tiles that such a tree ever had, only the last of each level must still be there.
	for _, tile := range tlog.NewTiles(height, 0, tree.N) {
		last := tile.W == 1<<height || tile.N<<height+int64(tile.W) == tree.N>>uint(height*tile.L)
		if last && !tiles[tile.Path()] {
			return nil, 0, fmt.Errorf("%s is missing", strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		}
	}
	return all, len(tiles), nil
}

func checkBundle(name, rest string, data []byte, leaves []tlog.Hash, bundled []bool) error {
	tile, err := tlog.ParseTilePath("tile/8/data/" + rest)
	if err != nil {
		return err
	}
	first := tile.N << height
	if first+int64(tile.W) > int64(len(leaves)) {
		return fmt.Errorf("%s: more entries than the tree has leaves", name)
	}
	for i := first; i < first+int64(tile.W); i++ {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return fmt.Errorf("%s: cut short", name)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		if tlog.RecordHash(data[2:end]) != leaves[i] {
			return fmt.Errorf("%s: entry %d has another hash than its leaf", name, i)
		}
		bundled[i] = true
		data = data[end:]
	}
	if len(data) != 0 {
		return fmt.Errorf("%s: too long", name)
	}
	return nil
}

func checkReceipt(path, entryPath string, log note.Verifiers, witnesses []note.Verifier, quorum int) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	entry, err := os.ReadFile(entryPath)
	if err != nil {
		return err
	}
	blank := bytes.Index(text, []byte("\n\n"))
	if blank < 0 {
		return errors.New("malformed")
	}
	lines := strings.Split(string(text[:blank]), "\n")
	if len(lines) > 1 && strings.HasPrefix(lines[1], "extra ") {
		lines = append(lines[:1], lines[2:]...)
	}
	if len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		return errors.New("malformed")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	proof, err := parseHashes(lines[2:])
	if err != nil {
		return err
	}
	message := text[blank+2:]
	tree, err := openCheckpoint(message, log)
	if err != nil {
		return err
	}
	if err := requireQuorum(message, witnesses, quorum); err != nil {
		return err
	}
	return tlog.CheckRecord(tlog.RecordProof(proof), tree.N, tree.Hash, index, tlog.RecordHash(entry))
}

// checkConsistency checks the proof in the file, and that it is the one that the folder's leaves give.
func checkConsistency(earlierPath, proofPath string, tree tlog.Tree, all hashes, log note.Verifiers) error {
	message, err := os.ReadFile(earlierPath)
	if err != nil {
		return err
	}
	earlier, err := openCheckpoint(message, log)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(proofPath)
	if err != nil {
		return err
	}
	proof, err := parseHashes(strings.Fields(string(text)))
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(tlog.TreeProof(proof), tree.N, tree.Hash, earlier.N, earlier.Hash); err != nil {
		return err
	}
	own, err := tlog.ProveTree(tree.N, earlier.N, all)
	if err != nil {
		return err
	}
	if fmt.Sprint(own) != fmt.Sprint(tlog.TreeProof(proof)) {
		return errors.New("another proof than the leaves give")
	}
	return nil
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}
