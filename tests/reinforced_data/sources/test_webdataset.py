import io
import pickle
import tarfile

import pytest

from distill.core.errors import DistillError, UsageError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.source import open_source
from reinforced_data.sources.parts.listing import LABEL_CAPTION_SOURCE
from reinforced_data.sources.parts.tars.index import TarIndex
from reinforced_data.sources.parts.tars.members import MAX_HEADER_BYTES, Member, Problem, scan
from reinforced_data.sources.parts.tars.places import expand_braces
from tests.reinforced_data.sources.tar_tools import add, make_tar
from tests.reinforced_data.stubs import encoded, picture


def png(seed):
    return encoded(picture(seed, 8, 8))


def pairs(source):
    """Key -> (image, caption texts), and key -> reason, of everything in a source."""
    good, bad = {}, {}
    for index in range(len(source)):
        try:
            sample = source[index]
            good[sample.key] = sample.image, [caption.text for caption in sample.captions]
        except BadImageError as error:
            bad[error.key] = error.reason
    return good, bad


def all_of(location, **options):
    """Both splits of a place together."""
    good, bad = {}, {}
    for split in ("train", "eval"):
        more, worse = pairs(open_source(str(location), split, **options))
        assert not set(good) & set(more)
        good.update(more)
        bad.update(worse)
    return good, bad


def five(first=0):
    return [
        member
        for i in range(first, first + 5)
        for member in ((f"{i:05d}.png", png(i)), (f"{i:05d}.txt", f"text {i}\nsecond line"))
    ]


def test_one_tar_a_folder_and_a_pattern_give_the_same_samples(tmp_path):
    make_tar(tmp_path / "s" / "00000.tar", five())
    make_tar(tmp_path / "s" / "00001.tar", five(5))
    (tmp_path / "s" / "00000.parquet").write_bytes(b"what img2dataset writes beside its tars")
    wanted = {f"{i:05d}": (png(i), [f"text {i} second line"]) for i in range(10)}
    assert all_of(tmp_path / "s") == (wanted, {})
    assert all_of(tmp_path / "s" / "{00000..00001}.tar") == (wanted, {})
    assert all_of(f"webdataset:{tmp_path}") == (wanted, {})
    one = {key: wanted[key] for key in list(wanted)[:5]}
    assert all_of(tmp_path / "s" / "00000.tar") == (one, {})


def test_captions_come_from_txt_else_json_and_an_image_may_have_none(tmp_path):
    make_tar(
        tmp_path / "x.tar",
        [
            ("a.JPG", png(0)), ("a.json", '{"caption": "in json", "uid": "a"}'), ("a.txt", "in txt"),
            ("b.webp", png(1)), ("b.json", '{"caption": ["one", "two"]}'),
            ("c.seg.png", png(9)), ("c.png", png(2)), ("c.json", "{broken"),
            ("deep/er/d.x.png", png(3)),
        ],
    )  # fmt: skip
    good, bad = all_of(tmp_path / "x.tar")
    assert good == {
        "a": (png(0), ["in txt"]),
        "b": (png(1), ["one", "two"]),
        "c": (png(2), []),
        "deep/er/d": (png(3), []),
    }
    assert not bad


def test_splits_by_name_of_tar_or_folder(tmp_path):
    make_tar(tmp_path / "a" / "train-000.tar", five())
    make_tar(tmp_path / "a" / "val-000.tar", five(5))
    make_tar(tmp_path / "b" / "train" / "0.tar", five())
    make_tar(tmp_path / "b" / "test" / "0.tar", five(5))
    for place in ("a", "b", "a/{train,val}-000.tar"):
        train, evaluation = (pairs(open_source(str(tmp_path / place), split))[0] for split in ("train", "eval"))
        assert sorted(train) == [f"{i:05d}" for i in range(5)]
        assert sorted(evaluation) == [f"{i:05d}" for i in range(5, 10)]


def test_classes(tmp_path):
    members = [m for i in range(6) for m in ((f"{i}.png", png(i)), (f"{i}.cls", str(i % 3)))]
    make_tar(tmp_path / "train" / "0.tar", members)
    make_tar(tmp_path / "test" / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("polar bear\ntree\ncar\n")
    source = open_source(str(tmp_path), "eval")
    assert source.zero_shot().class_names == ("polar bear", "tree", "car")
    assert source.zero_shot().labels == (0, 1, 2, 0, 1, 2)
    assert source[4].captions[0].text == "a photo of a tree."
    assert source[4].captions[0].source == LABEL_CAPTION_SOURCE


def test_random_access_order_fingerprint_and_pickle(tmp_path):
    make_tar(tmp_path / "x.tar", [m for i in range(4) for m in five(5 * i)])
    source = open_source(str(tmp_path / "x.tar"), "train")
    copy = pickle.loads(pickle.dumps(source))
    for index in (7, 0, 17, 3):
        assert source[index] == copy[index]
        assert source[index].image == png(int(source[index].key))
    again = open_source(str(tmp_path / "x.tar"), "train")
    assert again.fingerprint == source.fingerprint != open_source(str(tmp_path / "x.tar"), "eval").fingerprint
    make_tar(tmp_path / "x.tar", [m for i in range(5) for m in five(5 * i)])
    assert open_source(str(tmp_path / "x.tar"), "train").fingerprint != source.fingerprint


def test_samples_in_worker_processes(tmp_path):
    from torch.utils.data import DataLoader

    make_tar(tmp_path / "x.tar", [m for i in range(3) for m in five(5 * i)])
    source = open_source(str(tmp_path / "x.tar"), "train")
    seen = list(DataLoader(source, batch_size=None, num_workers=2))
    assert [sample.image for sample in seen] == [png(int(sample.key)) for sample in seen]
    assert len(seen) == len(source)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_agrees_with_tarfile_in_every_format(tmp_path, format):
    name = "some/folders/" + ("long" * 12 + "/") * 3 + "é" * 20 + ".png"
    members = [(name, png(0)), ("x.txt", "y"), *five()]
    path = make_tar(tmp_path / "x.tar", members, format=format)
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    assert [(f"{m.key}.{m.kind}", m.offset, m.size) for m in scan(path)] == expected


def hostile(path):
    with tarfile.open(path, "w") as tar:
        add(tar, "good.png", png(0))
        add(tar, "../up.png", png(1))
        add(tar, "/etc/abs.png", png(1))
        add(tar, "a/../../b.png", png(1))
        add(tar, "c\\d.png", png(1))
        add(tar, "link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.png", b"", type=tarfile.LNKTYPE, linkname="good.png")
        add(tar, "dev.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(tar, "pipe.png", b"", type=tarfile.FIFOTYPE)
        add(tar, "folder", b"", type=tarfile.DIRTYPE)
        add(tar, ".hidden.png", png(1))
        add(tar, "noending", b"x")
        add(tar, "good.png", png(2))
        add(tar, "fine.png", png(3))
    return path


def test_what_is_no_plain_member_is_counted_with_its_reason_and_never_read(tmp_path):
    hostile(tmp_path / "x.tar")
    before = sorted(tmp_path.rglob("*"))
    good, bad = all_of(tmp_path / "x.tar")
    assert good == {"good": (png(0), []), "fine": (png(3), [])}
    outside = "its name leads out of the tar"
    assert bad == {
        "../up.png": outside, "/etc/abs.png": outside, "a/../../b.png": outside, "c\\d.png": outside,
        "link.png": "it is a link", "hard.png": "it is a link",
        "dev.png": "it is no ordinary file", "pipe.png": "it is no ordinary file",
        "noending": "its name has no ending that says what it is",
        "good.png": "the tar has two members of this name",
    }  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tar_cut_anywhere_gives_what_is_whole_and_says_so(tmp_path):
    whole = make_tar(tmp_path / "whole.tar", five()).read_bytes()
    path = tmp_path / "cut.tar"
    members = list(scan(tmp_path / "whole.tar"))
    for length in range(0, members[-1].offset + members[-1].size, 256):
        path.write_bytes(whole[:length])
        if length < 512:
            with pytest.raises(DistillError, match=r"cut\.tar") if length else pytest.raises(DistillError):
                list(scan(path))
            continue
        found = list(scan(path))
        kept = [item for item in found if isinstance(item, Member)]
        assert kept == [member for member in members if member.offset + member.size <= length]
        assert any(isinstance(item, Problem) for item in found)


def test_damaged_and_absurd_headers_end_the_tar_with_a_reason(tmp_path):
    whole = bytearray(make_tar(tmp_path / "x.tar", five(), format=tarfile.USTAR_FORMAT).read_bytes())
    third = next(m for m in list(scan(tmp_path / "x.tar"))[2:]).offset - 512

    def with_size(field, kind=b"0"):
        header = bytearray(whole[third : third + 512])
        header[124:136], header[156:157] = field, kind
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(whole[:third]) + bytes(header) + bytes(whole[third + 512 :])

    cases = {
        "bad checksum": bytes(whole[:third]) + b"\xff" * 512 + bytes(whole[third + 512 :]),
        "declares": with_size(b"77777777777\0"),
        "damaged": with_size(b"\xff" * 12),  # minus one in base 256
        "pax": with_size(b"77777777777\0", b"x"),
    }
    for word, data in cases.items():
        (tmp_path / "y.tar").write_bytes(data)
        found = list(scan(tmp_path / "y.tar"))
        problems = [item.reason for item in found if isinstance(item, Problem)]
        assert len(problems) == 1, word
        assert "damaged" in problems[0] or "cut short" in problems[0]
        assert len(found) == 3
    assert MAX_HEADER_BYTES < 8**11


def test_a_chain_of_headers_is_no_recursion(tmp_path):
    """Python's tarfile calls itself once per header of a chain."""
    body = make_tar(tmp_path / "x.tar", [("a.png", png(0))]).read_bytes()
    first = 512 + -(-len(png(0)) // 512) * 512
    pax = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    (tmp_path / "x.tar").write_bytes(body[:first] + pax * 5000 + body)
    member, problem = scan(tmp_path / "x.tar")
    assert member.key == "a"
    assert "too many headers" in problem.reason


def test_the_same_key_in_two_tars_is_two_samples(tmp_path):
    for number in (0, 1):
        make_tar(tmp_path / f"{number}.tar", [("7.png", png(number))])
    index = TarIndex([tmp_path / "0.tar", tmp_path / "1.tar"])
    assert list(index.keys) == ["7", "1/7"]
    assert [index.read(row, "png", 1 << 20) for row in (0, 1)] == [png(0), png(1)]
    with pytest.raises(BadImageError, match="more than 10"):
        index.read(0, "png", 10)


def test_tars_that_are_none_and_places_without(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        add(tar, "a.png", png(0))
    (tmp_path / "z.tar").write_bytes(stream.getvalue())
    (tmp_path / "z.tar.gz").write_bytes(stream.getvalue())
    with pytest.raises(DistillError, match="compressed"):
        open_source(str(tmp_path / "z.tar"), "train")
    with pytest.raises(UsageError, match="Unpack"):
        open_source(str(tmp_path / "z.tar.gz"), "train")
    with pytest.raises(UsageError, match=r"2 of the 2 tars.*000\.tar"):
        open_source(str(tmp_path / "{000..001}.tar"), "train")
    make_tar(tmp_path / "n.tar", [("a.npz", b"x"), ("a.url.txt", "y")])
    with pytest.raises(UsageError, match=r"no images.*npz"):
        open_source(str(tmp_path / "n.tar"), "train")
    with pytest.raises(UsageError, match="more than 1000000"):
        expand_braces("{0..99999999}.tar")


def test_braces():
    assert expand_braces("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("{1..1}{1..1}") == ["11"]
    assert expand_braces("plain.tar") == ["plain.tar"]


def test_caption_columns_of_tars(tmp_path):
    members = [
        ("a.png", png(0)), ("a.txt", "real"), ("a.syn.json", '{"syn_text": ["made", "up"]}'), ("a.llm.txt", "said"),
        ("b.png", png(1)), ("b.json", '{"caption": "real b", "rewrite": "re b"}'),
    ]  # fmt: skip
    make_tar(tmp_path / "train.tar", members)
    make_tar(tmp_path / "dev.tar", members)
    columns = {"syn_text": "coca", "llm.txt": "llm", "rewrite": "llm"}
    source = open_source(str(tmp_path), "train", caption_columns=columns)
    assert [(caption.text, caption.source) for caption in source[0].captions] == [
        ("real", "real"), ("said", "synthetic:llm"), ("made", "synthetic:coca"), ("up", "synthetic:coca"),
    ]  # fmt: skip
    assert [(caption.text, caption.source) for caption in source[1].captions] == [
        ("real b", "real"), ("re b", "synthetic:llm"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="'rewrit'"):
        open_source(str(tmp_path), "train", caption_columns={"rewrit": "typo"})
