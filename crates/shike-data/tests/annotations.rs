//! Annotations as they are published: COCO, camera traps, iNaturalist, ISIC, HAM10000, Hugging Face.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use shike_data::dataset::{ListColumns, is_metadata};
use shike_data::{Dataset, list_file, list_file_like};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn rows(data: &Dataset) -> Vec<(String, String)> {
    let row = |i| {
        let class = &data.class_names()[data.label(i) as usize];
        (data.relative_path(i).unwrap().to_owned(), class.clone())
    };
    (0..data.len()).map(row).collect()
}

fn wanted(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter()
        .map(|(path, class)| ((*path).to_owned(), (*class).to_owned()))
        .collect()
}

fn fails(content: &str, name: &str) -> String {
    let dir = folder(&[(name, content)]);
    let error = list_file("root", dir.path().join(name), None, None).unwrap_err();
    error
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "")
}

/// Ids of categories are as they are; boxes of one category are one label; what has none is told.
const COCO: &str = r#"{"info": {"year": 2024}, "licenses": [],
"images": [
 {"id": 9, "file_name": "a/1.jpg", "width": 640, "height": 480},
 {"id": 7, "file_name": "2.jpg"},
 {"id": 8, "file_name": "3.jpg"},
 {"id": 6, "file_name": "empty.jpg"}],
"annotations": [
 {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "segmentation": [[1.5, 2.5]]},
 {"id": 2, "image_id": 9, "category_id": 3, "area": 4.5},
 {"id": 3, "image_id": 7, "category_id": 18, "bbox": [5, 6, 7, 8]},
 {"id": 4, "image_id": 8, "category_id": 18}],
"categories": [{"id": 3, "name": "zebra", "supercategory": "animal"}, {"id": 18, "name": "dog"}, {"id": 20, "name": "cow"}]}"#;

#[test]
fn coco_and_inaturalist() {
    let dir = folder(&[("train.json", COCO)]);
    let data = list_file("root", dir.path().join("train.json"), None, None).unwrap();
    assert_eq!(
        rows(&data),
        wanted(&[("2.jpg", "dog"), ("a/1.jpg", "zebra"), ("3.jpg", "dog")])
    );
    assert_eq!(data.class_names(), ["dog", "zebra"]);
    assert_eq!(
        data.notes(),
        ["1 of 4 images have no annotation and are left out"]
    );
    // A test list has other ids, and the classes of its training list.
    let test = r#"{"categories": [{"id": 1, "name": "zebra"}, {"id": 2, "name": "dog"}], "annotations":
        [{"image_id": 1, "category_id": 1}], "images": [{"id": 1, "file_name": "t.jpg"}]}"#;
    let at = dir.path().join("test.json");
    fs::write(&at, test).unwrap();
    let test_set = list_file_like("root", &at, &data).unwrap();
    assert_eq!((test_set.labels(), test_set.num_classes()), (&[1][..], 2));
    fs::write(&at, test.replace("zebra", "gnu")).unwrap();
    let error = list_file_like("root", &at, &data).unwrap_err().to_string();
    assert!(
        error.ends_with("annotations[0]: the class \"gnu\" is none of the training set's"),
        "{error}"
    );
}

#[test]
fn camera_traps_have_texts_for_ids() {
    let list = r#"{"images": [{"id": "59a-23", "file_name": "cct/1.jpg", "seq_id": "s1", "location": 33},
        {"id": "59b-24", "file_name": "cct/2.jpg"}],
        "annotations": [{"id": "x", "image_id": "59b-24", "category_id": 30}, {"id": "y", "image_id": "59a-23", "category_id": 6}],
        "categories": [{"id": 30, "name": "empty"}, {"id": 6, "name": "bobcat"}]}"#;
    let dir = folder(&[("cct.json", list)]);
    let data = list_file("root", dir.path().join("cct.json"), None, None).unwrap();
    assert_eq!(
        rows(&data),
        wanted(&[("cct/2.jpg", "empty"), ("cct/1.jpg", "bobcat")])
    );
}

#[test]
fn what_is_wrong_in_json_is_named_with_its_line() {
    let with = |from: &str, to: &str| {
        assert!(COCO.contains(from), "{from}");
        fails(&COCO.replace(from, to), "l.json")
    };
    assert_eq!(
        with("\"image_id\": 8", "\"image_id\": 5"),
        "l.json:11: annotations[3]: the image_id 5 is none of `images`"
    );
    assert_eq!(
        with(
            "\"id\": 3, \"image_id\": 7, \"category_id\": 18",
            "\"id\": 3, \"image_id\": 7, \"category_id\": 3"
        ),
        "l.json:10: annotations[2]: \"2.jpg\" has label 1 here, but 0 in annotations[0]: this program gives an image \
         one label"
    );
    assert_eq!(
        with("\"category_id\": 3,", "\"category_id\": 4,"),
        "l.json:9: annotations[1]: the category_id 4 is none of `categories`"
    );
    assert_eq!(
        with("\"images\"", "\"pictures\""),
        "l.json: annotations have `image_id`, but there is no `images`"
    );
    assert_eq!(
        with("\"categories\"", "\"classes\""),
        "l.json: annotations have `image_id`, but there is no `categories`"
    );
}

#[test]
fn one_column_a_class_as_isic_has_it() {
    let isic =
        "image,MEL,NV,BCC,UNK\nISIC_1,0.0,1.0,0.0,0.0\nISIC_2,1.0,0.0,0.0,0.0\nISIC_3,0,0,1,0\n";
    let files = [
        ("l.csv", isic),
        ("images/ISIC_1.jpg", ""),
        ("images/ISIC_2.jpg", ""),
        ("images/more/ISIC_3.JPEG", ""),
    ];
    let dir = folder(&files);
    let read = |list: &str| {
        let at = dir.path().join("l.csv");
        fs::write(&at, list).unwrap();
        list_file(dir.path(), &at, None, None).map_err(|e| {
            e.to_string()
                .replace(&format!("{}/", dir.path().display()), "")
        })
    };
    let data = read(isic).unwrap();
    let found = [
        ("images/ISIC_1.jpg", "NV"),
        ("images/ISIC_2.jpg", "MEL"),
        ("images/more/ISIC_3.JPEG", "BCC"),
    ];
    assert_eq!(rows(&data), wanted(&found));
    assert_eq!(data.class_names(), ["BCC", "MEL", "NV"]);
    assert_eq!(
        read(&isic.replace("1.0,0.0,0.0,0.0", "1.0,1.0,0.0,0.0")).unwrap_err(),
        "l.csv:3: MEL and NV have a 1: this program gives an image one label"
    );
    assert_eq!(
        read(&isic.replace("0,0,1,0", "0,0,0,0")).unwrap_err(),
        "l.csv:4: no class has a 1: wanted one, in its column"
    );
    assert_eq!(
        read(&isic.replace("ISIC_2", "ISIC_9")).unwrap_err(),
        "l.csv:3: no image below the folder is called \"ISIC_9\""
    );
    fs::write(dir.path().join("images/more/ISIC_1.png"), "").unwrap();
    assert_eq!(
        read(isic).unwrap_err(),
        "l.csv:2: \"ISIC_1\" may be images/ISIC_1.jpg or images/more/ISIC_1.png: write the path"
    );
}

#[test]
fn names_without_endings_as_ham10000_has_them() {
    let ham = "lesion_id,image_id,dx,dx_type,age,sex\nHAM_0,ISIC_7,bkl,histo,80.0,male\nHAM_1,ISIC_5,nv,histo,,male\n";
    let dir = folder(&[
        ("meta.csv", ham),
        ("part_1/ISIC_5.jpg", ""),
        ("part_2/ISIC_7.jpg", ""),
    ]);
    let data = list_file(dir.path(), dir.path().join("meta.csv"), None, None).unwrap();
    assert_eq!(
        rows(&data),
        wanted(&[("part_2/ISIC_7.jpg", "bkl"), ("part_1/ISIC_5.jpg", "nv")])
    );
}

fn with(image: Option<&str>, label: Option<&str>) -> ListColumns {
    ListColumns {
        image: image.map(str::to_owned),
        label: label.map(str::to_owned),
    }
}

#[test]
fn columns_are_named_where_they_are_called_otherwise() {
    let list = "photo,who,label,n\na.jpg,Ann,x,1\nb.jpg,Bea,y,2\n";
    let dir = folder(&[("l.csv", list)]);
    let at = dir.path().join("l.csv");
    let read = |columns: ListColumns, at: &Path| {
        columns
            .list_file("root".as_ref(), at, None, None)
            .map_err(|e| e.to_string())
    };
    let data = read(with(Some("photo"), Some("who")), &at).unwrap();
    assert_eq!(rows(&data), wanted(&[("a.jpg", "Ann"), ("b.jpg", "Bea")]));
    let data = read(with(Some("Photo"), None), &at).unwrap();
    assert_eq!(data.class_names(), ["x", "y"]);
    let error = read(with(Some("photo"), Some("species")), &at).unwrap_err();
    assert!(
        error.contains(
            "l.csv:1: the header has no column called species (it is \"photo,who,label,n\")"
        ),
        "{error}"
    );
    let text: PathBuf = dir.path().join("l.txt");
    fs::write(&text, "a.jpg 0\n").unwrap();
    let error = read(with(None, Some("who")), &text).unwrap_err();
    assert!(
        error.contains("columns are for files whose names end in .csv"),
        "{error}"
    );
    // What was read before is read as before: the usual names go before others.
    let both = "file_name,path,species,label\nx,a.jpg,cat,0\ny,b.jpg,dog,1\n";
    fs::write(&at, both).unwrap();
    let data = list_file("root", &at, None, None).unwrap();
    assert_eq!(
        (data.labels(), data.relative_path(0)),
        (&[0, 1][..], Some("a.jpg"))
    );
}

#[test]
fn labels_are_parts_of_paths() {
    let files = [
        ("site1/cat/1.jpg", ""),
        ("site2/dog/2.png", ""),
        ("site2/cat/3.jpg", ""),
        ("site2/notes.txt", ""),
    ];
    let dir = folder(&files);
    let read = |label: &str, list: &Path| {
        with(None, Some(label))
            .list_file(dir.path(), list, None, None)
            .map_err(|e| e.to_string())
    };
    let found = [
        ("site1/cat/1.jpg", "cat"),
        ("site2/cat/3.jpg", "cat"),
        ("site2/dog/2.png", "dog"),
    ];
    assert_eq!(rows(&read("path:2", dir.path()).unwrap()), wanted(&found));
    assert_eq!(
        rows(&read(r"path:/([a-z]+)/\d", dir.path()).unwrap()),
        wanted(&found)
    );
    let list = dir.path().join("l.csv");
    fs::write(&list, "path,label\nsite1/cat/1.jpg,0\nsite2/dog/2.png,0\n").unwrap();
    assert_eq!(
        rows(&read("path:1", &list).unwrap()),
        wanted(&[("site1/cat/1.jpg", "site1"), ("site2/dog/2.png", "site2")])
    );
    let error = read("path:3", &list).unwrap_err();
    assert!(
        error.ends_with("l.csv:2: \"site1/cat/1.jpg\" has no label at path:3"),
        "{error}"
    );
    assert!(
        read("path:cat", &list)
            .unwrap_err()
            .contains("has no group")
    );
}

#[test]
fn metadata_lies_beside_its_images_as_in_hugging_faces_imagefolder() {
    let files = [
        (
            "train/metadata.csv",
            "file_name,label\n1.png,cat\nsub/2.png,dog\n",
        ),
        ("caption/metadata.csv", "file_name,text\n1.png,a cat\n"),
    ];
    let dir = folder(&files);
    let list = is_metadata(&dir.path().join("train")).unwrap();
    let data = list_file(dir.path(), &list, None, None).unwrap();
    assert_eq!(
        rows(&data),
        wanted(&[("train/1.png", "cat"), ("train/sub/2.png", "dog")])
    );
    assert_eq!(
        data.notes(),
        [format!("labels are those of {}", list.display())]
    );
    for image in ["train/1.png", "train/sub/2.png", "train/3.png"] {
        fs::create_dir_all(dir.path().join(image).parent().unwrap()).unwrap();
        fs::write(dir.path().join(image), "").unwrap();
    }
    let data = list_file(dir.path(), &list, None, None).unwrap();
    assert!(
        data.notes()[0].ends_with("; 1 of 3 images beside it are not in it, and left out"),
        "{:?}",
        data.notes()
    );
    assert_eq!(is_metadata(&dir.path().join("caption")), None);
    assert_eq!(is_metadata(dir.path()), None);
}
